# winnow: `make run` (or `make run MODEL=file.gguf`) and `make test` set up a fresh Debian or Ubuntu machine and do what they say.
# Sources are found by folder; a new file in config/, cache/, engine/ or server/ needs no change here.

BUILD  ?= build
ifneq ($(words [$(BUILD)])$(if $(BUILD),,empty),1)
$(error BUILD is "$(BUILD)": it has to be the path of one folder, without blanks)
endif
# Served by `make run`. The server finds the heads for razor and duo beside the model (NAME.heads.json); HEADS=FILE names
# another file.
MODEL  ?= models/demo.gguf
HEADS  ?=
ARGS   ?=
PREFIX ?= /usr/local
V      ?=
Q      := $(if $(V),,@)
FUZZ_SECONDS ?= 600

ifeq ($(origin CC),default)
CC := gcc
endif
ifeq ($(origin CXX),default)
CXX := g++
endif

VERSION := 0.1.0
COMMIT  := $(shell git rev-parse --short=9 HEAD 2>/dev/null || echo unknown)

PACKAGES = libmicrohttpd gnutls libuv jansson libpcre2-8
APT_BUILD = gcc libc6-dev make pkg-config libmicrohttpd-dev libgnutls28-dev libuv1-dev libjansson-dev libpcre2-dev
APT_TEST  = check g++ curl openssl python3 python3-venv python3-jinja2 python3-numpy
APT_LINT  = clang-format clang-tidy cppcheck shellcheck python3

# Asked once, and not before `deps` has installed the packages: a name that is not there yet gives nothing.
PACKAGE_CFLAGS := $(shell pkg-config --cflags $(PACKAGES) 2>/dev/null)
PACKAGE_LIBS := $(shell pkg-config --libs $(PACKAGES) 2>/dev/null)

WARNINGS = -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla
# No contraction: a fused multiply-add appears only where a kernel writes one, so plain C sums the same everywhere.
OPTIMISE ?= -O2
CFLAGS_ALL = -std=gnu11 $(OPTIMISE) -g -pthread -ffp-contract=off -fno-math-errno -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 \
	-DWINNOW_VERSION='"$(VERSION)"' -I. $(WARNINGS) $(SANITIZE) $(PACKAGE_CFLAGS) $(CFLAGS)
# CUDA kernels on the CPU, for tests on machines without a GPU. Like nvcc, it lets vectors alias what they load.
CXXFLAGS_ALL = -std=gnu++17 $(OPTIMISE) -g -pthread -ffp-contract=off -fno-math-errno -fno-strict-aliasing -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 \
	-DWINNOW_CUDA_EMULATED -I. -Wall -Wextra -Werror -Wno-unknown-pragmas -Wpointer-arith $(SANITIZE) $(PACKAGE_CFLAGS) $(CXXFLAGS)
LIBS = $(PACKAGE_LIBS) -lm -pthread
CHECK_LIBS := $(shell pkg-config --cflags --libs check 2>/dev/null)

# On all cores, unless whoever called said -j.
PARALLEL = $(if $(filter -j% --jobs% --jobserver%,$(MAKEFLAGS)),,-j$(shell nproc))

MACHINE := $(shell uname -m)
ifeq ($(MACHINE),x86_64)
ISA_avx2   = -mavx2 -mfma -mf16c
ISA_avx512 = -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mf16c -mprefer-vector-width=512
ISA_avx512vnni = $(ISA_avx512) -mavx512vnni
# Compilers before 2021 do not know it; products_avxvnni.c is empty then.
ISA_avxvnni := $(ISA_avx2) $(shell $(CC) -mavxvnni -E -x c /dev/null >/dev/null 2>&1 && echo -mavxvnni)
endif

# The CUDA backend: built with nvcc where there is one (CUDA=none leaves it out), and for the tests as C++ that runs
# on the CPU (cuda/emulated).
CUDA ?= auto
ifndef NVCC
NVCC := $(if $(filter none,$(CUDA)),,$(shell command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null))
endif
CUDA_SOURCES := $(sort $(wildcard cuda/kernels/*.cu cuda/host/*.cu))
ifneq ($(CUDA),none)
ifneq ($(NVCC),)
CUDA_OBJECTS := $(CUDA_SOURCES:%.cu=$(BUILD)/%.cu.o)
CUDA_HOME := $(patsubst %/bin/nvcc,%,$(realpath $(NVCC)))
CUDA_LIBS := -L$(CUDA_HOME)/lib64 -lcudart_static -ldl -lrt -lstdc++
endif
endif
CUDA_OBJECTS ?= $(BUILD)/cuda/host/absent.o
CUDA_ARCH = -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=sm_90 -gencode arch=compute_90,code=compute_90
NVCC_FLAGS = -std=c++17 -O3 $(CUDA_ARCH) -I. --threads 2 -Werror all-warnings -Xcompiler -Wall,-Wextra,-pthread \
	$(PACKAGE_CFLAGS)
EMULATED_OBJECTS := $(CUDA_SOURCES:%.cu=$(BUILD)/emulated/%.o) \
	$(patsubst %.cpp,$(BUILD)/%.o,$(sort $(wildcard cuda/emulated/*.cpp)))

# What tests find behind --device cuda: the emulated device, the real one (make test-cuda), or none.
TEST_CUDA ?= emulated
ifeq ($(TEST_CUDA),emulated)
TEST_CUDA_OBJECTS := $(EMULATED_OBJECTS)
else
TEST_CUDA_OBJECTS := $(CUDA_OBJECTS)
TEST_CUDA_LIBS := $(CUDA_LIBS)
# A real device does not fail on demand; without one there is none to sample on.
ONLY_EMULATED := $(addprefix $(BUILD)/tests/unit/,test_cuda_faults $(if $(filter none,$(TEST_CUDA)),test_device_sampling))
endif

# How each compiler is called. A file in BUILD holds the words and is written when they change, so that what was built
# with others is built again: another CC, CFLAGS or SANITIZE in the same folder needs no `make clean`.
CALL_cc := $(strip $(CC) $(CFLAGS_ALL) $(ISA_avx512vnni) $(ISA_avxvnni))
CALL_cxx := $(strip $(CXX) $(CXXFLAGS_ALL))
CALL_nvcc := $(strip $(NVCC) $(NVCC_FLAGS))
remember = $(if $(wildcard $(BUILD)),,$(shell mkdir -p $(BUILD)))$(file >$(BUILD)/called-$1,$(CALL_$1))
ifeq ($(filter clean format deps deps-test,$(MAKECMDGOALS)),)
ifneq ($(strip $(file <$(BUILD)/called-cc)),$(CALL_cc))
$(call remember,cc)
endif
ifneq ($(strip $(file <$(BUILD)/called-cxx)),$(CALL_cxx))
$(call remember,cxx)
endif
ifneq ($(strip $(file <$(BUILD)/called-nvcc)),$(CALL_nvcc))
$(call remember,nvcc)
endif
endif

LIB_SOURCES := $(sort $(filter-out server/cli/main.c,$(wildcard config/*.c config/base/*.c cache/*/*.c engine/*/*.c server/*.c server/*/*.c)) cuda/host/buddy.c cuda/host/device.c)
LIB_OBJECTS := $(LIB_SOURCES:%.c=$(BUILD)/%.o)
LIB := $(BUILD)/libwinnow.a
REFERENCE_OBJECTS := $(patsubst %.c,$(BUILD)/%.o,$(sort $(wildcard tests/reference/*.c)))
UNIT_TESTS := $(filter-out $(ONLY_EMULATED),$(patsubst tests/unit/%.c,$(BUILD)/tests/unit/%,$(sort $(wildcard tests/unit/test_*.c))))
KERNEL_TESTS := $(patsubst tests/kernels/%.c,$(BUILD)/tests/kernels/%,$(sort $(wildcard tests/kernels/test_*.c)))
# Kernels of CUDA, on the emulated device or (make test-cuda) on a real one.
EMULATION_TESTS := $(patsubst %.cpp,$(BUILD)/%,$(sort $(wildcard tests/cuda_emu/test_*.cpp tests/kernels/test_cuda_*.cpp)))
REAL_TESTS := $(patsubst %.cpp,$(BUILD)/real/%,$(sort $(wildcard tests/kernels/test_cuda_*.cpp)))
TESTS := $(UNIT_TESTS) $(KERNEL_TESTS) $(EMULATION_TESTS)
BENCHES := $(patsubst tests/bench/%.c,$(BUILD)/tests/bench/%,$(sort $(wildcard tests/bench/bench_*.c)))
FUZZERS := $(patsubst tests/fuzz/%.c,$(BUILD)/tests/fuzz/%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))

.PHONY: all run test test-cuda gpu-bundle bench-cuda test-cuda-built test-built tests-asan tests-tsan asan-built tsan-built coverage coverage-built bench clean format lint lint-built lint-format lint-arrows lint-shell lint-cppcheck lint-tidy asan tsan fuzz \
	fuzz-built install uninstall deps deps-test deps-format deps-lint deps-fuzz binary tests fuzzers
all: deps
	@$(MAKE) $(PARALLEL) --no-print-directory binary

binary: $(BUILD)/winnow
tests: $(BUILD)/winnow $(BUILD)/winnow-emulated $(TESTS)
fuzzers: $(FUZZERS)

run: deps
	@$(MAKE) $(PARALLEL) --no-print-directory binary
	exec $(BUILD)/winnow serve "$(MODEL)" $(if $(HEADS),--head-profile "$(HEADS)") $(ARGS)

test: deps deps-test deps-lint
	@$(MAKE) $(PARALLEL) --no-print-directory tests
	@BUILD="$(BUILD)" sh tests/run.sh

test-built: tests
	@BUILD="$(BUILD)" sh tests/run.sh

bench: deps
	@$(MAKE) --no-print-directory OPTIMISE=-O2 $(BENCHES)
	@for b in $(BENCHES); do echo "== $$b"; $$b || exit 1; done

# Under sanitizers, each in a build folder of its own. `make test` runs the unit tests and the kernels that choose, move
# and write slots under AddressSanitizer and UndefinedBehaviorSanitizer, and what uses threads under ThreadSanitizer;
# `make asan` and `make tsan` run everything so.
ASAN := BUILD="$(BUILD)/asan" OPTIMISE=-O1 \
	SANITIZE="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
TSAN := BUILD="$(BUILD)/tsan" OPTIMISE=-O1 SANITIZE="-fsanitize=thread"
ASAN_TESTS := $(UNIT_TESTS) $(addprefix $(BUILD)/tests/kernels/,test_attention_lists test_matmul test_pages test_rows test_cuda_select test_cuda_rows)
TSAN_TESTS := $(addprefix $(BUILD)/tests/,unit/test_engine unit/test_event_buffer unit/test_request_history \
	unit/test_faults_engine unit/test_scheduler unit/test_work kernels/test_rows)
asan-built: $(ASAN_TESTS)
tsan-built: $(TSAN_TESTS)
tests-asan:
	@$(MAKE) $(PARALLEL) --no-print-directory $(ASAN) CUDA=none asan-built
tests-tsan:
	@$(MAKE) $(PARALLEL) --no-print-directory $(TSAN) CUDA=none TEST_CUDA=none tsan-built
asan: deps deps-test
	@$(MAKE) --no-print-directory $(ASAN) test-built
tsan: deps deps-test
	@$(MAKE) --no-print-directory $(TSAN) test-built

# What the unit tests run of the product, by room. With FLAGS=--files by file, with FLAGS=--memory the lines that report a
# lack of memory and whether a test has reached them.
COVERAGE := BUILD="$(BUILD)/coverage" OPTIMISE=-O1 SANITIZE=--coverage CUDA=none TEST_CUDA=none
coverage: deps deps-test
	@$(MAKE) $(PARALLEL) --no-print-directory $(COVERAGE) coverage-built
	@find $(BUILD)/coverage -name '*.gcda' -delete
	@for t in $(patsubst $(BUILD)/%,$(BUILD)/coverage/%,$(UNIT_TESTS)); do \
		[ ! -x $$t ] || WINNOW_TEST_PART=12 $$t >$$t.log 2>&1 || { cat $$t.log; exit 1; }; done
	@python3 tests/lint/coverage.py $(BUILD)/coverage $(FLAGS)
coverage-built: $(UNIT_TESTS)

# The kernel tests, and the tests of the engine that take a device, on the GPU of this machine.
test-cuda: deps deps-test
	@[ -n "$(NVCC)" ] || { echo "make test-cuda needs nvcc" >&2; exit 2; }
	@$(MAKE) --no-print-directory BUILD=build/cuda TEST_CUDA=real test-cuda-built
	@BUILD=build/cuda sh tests/run_cuda.sh
test-cuda-built: $(BUILD)/winnow $(UNIT_TESTS) $(REAL_TESTS)

# What a machine with a GPU and without packages runs, in one archive: tests/gpu/README.md. Needs nvcc, and no GPU.
gpu-bundle: deps deps-test
	@[ -n "$(NVCC)" ] || { echo "make gpu-bundle needs nvcc" >&2; exit 2; }
	@sh config/deps.sh xz libsubunit "xz-utils libsubunit-dev"
	@BUILD="$(BUILD)" sh tests/gpu/bundle.sh

# How near the kernels come to what this machine's GPU can do.
bench-cuda: deps
	@[ -n "$(NVCC)" ] || { echo "make bench-cuda needs nvcc" >&2; exit 2; }
	@$(MAKE) --no-print-directory $(BUILD)/real/tests/bench/bench_cuda
	$(BUILD)/real/tests/bench/bench_cuda

fuzz: deps deps-fuzz
	@CC=clang BUILD=build/fuzz sh tests/fuzz/run.sh $(FUZZ_SECONDS)

FORMATTED = $$(git ls-files '*.c' '*.h' '*.cpp' '*.cu')
format: deps-format
	clang-format -i $(FORMATTED)
deps-format:
	@sh config/deps.sh clang-format "" clang-format

# Format, the arrows between the rooms, scripts, and two readers of C that look for faults. clang-tidy's answer for a
# source is kept until a source or header changes.
lint: deps deps-lint
	@$(MAKE) $(PARALLEL) --no-print-directory lint-built
lint-built: lint-format lint-arrows lint-shell lint-cppcheck lint-tidy
deps-lint: deps
	@sh config/deps.sh "clang-format clang-tidy cppcheck shellcheck python3" "" "$(APT_LINT)"
lint-format:
	clang-format --dry-run -Werror $(FORMATTED)
lint-arrows:
	python3 tests/lint/arrows.py
lint-shell:
	shellcheck $$(git ls-files '*.sh') .ci/run
lint-cppcheck:
	cppcheck --quiet --error-exitcode=1 --std=c11 --enable=warning,portability -I. \
		--suppress=missingIncludeSystem --suppress=invalidPointerCast --inline-suppr --include=tests/lint/cppcheck_queue.h \
		config cache engine server
TIDIED := $(patsubst %,$(BUILD)/tidied/%,$(LIB_SOURCES) server/cli/main.c)
lint-tidy: $(TIDIED)
$(BUILD)/tidied/%.c: %.c .clang-tidy $(sort $(wildcard config/*.h config/base/*.h cache/*/*.h engine/*/*.h server/*.h server/*/*.h cuda/host/*.h))
	@mkdir -p $(@D)
	$(if $(V),,@echo "  tidy $<")
	$(Q)clang-tidy --quiet $< -- $(filter -std=% -D% -I%,$(CFLAGS_ALL)) -DWINNOW_COMMIT='"lint"' $(ISA) 2>/dev/null && touch $@

# Binary, manual page, completions, systemd unit, demo model. PREFIX=$$HOME/.local needs no root.
install: deps
	@$(MAKE) $(PARALLEL) --no-print-directory binary
	@BUILD="$(BUILD)" PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" sh config/install/install.sh install
uninstall:
	@BUILD="$(BUILD)" PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" sh config/install/install.sh uninstall

clean:
	rm -rf build

# Installs what is missing with root or passwordless sudo; otherwise prints the one command that would.
deps:
	@sh config/deps.sh "$(CC) pkg-config" "$(PACKAGES)" "$(APT_BUILD)"
deps-fuzz: deps
	@sh config/deps.sh clang "" "clang"
deps-test: deps # one after the other: dpkg's lock is for one, also under make -j
	@sh config/deps.sh "g++ curl python3" "check" "$(APT_TEST)"

$(LIB): $(LIB_OBJECTS)
	@rm -f $@
	$(Q)ar rcs $@ $^

$(BUILD)/winnow: $(BUILD)/server/cli/main.o $(LIB) $(CUDA_OBJECTS)
	$(if $(V),,@echo "  ld $@")
	$(Q)$(CC) $(SANITIZE) -o $@ $< $(LIB) $(CUDA_OBJECTS) $(LIB) $(LIBS) $(CUDA_LIBS)

# The same program on the emulated device.
$(BUILD)/winnow-emulated: $(BUILD)/server/cli/main.o $(LIB) $(EMULATED_OBJECTS)
	$(if $(V),,@echo "  ld $@")
	$(Q)$(CXX) $(SANITIZE) -o $@ $< $(LIB) $(EMULATED_OBJECTS) $(LIB) $(LIBS)

$(BUILD)/%.cu.o: %.cu $(BUILD)/called-nvcc
	@mkdir -p $(@D)
	$(if $(V),,@echo "  nvcc $<")
	$(Q)$(NVCC) $(NVCC_FLAGS) -MD -MP -MF $(@:.o=.d) -c -o $@ $<

# Rebuilt when the commit changes, so that --version tells the truth.
$(BUILD)/config/base/version.o: CFLAGS_ALL += -DWINNOW_COMMIT='"$(COMMIT)"'
$(BUILD)/config/base/version.o: $(BUILD)/commit-$(COMMIT)
$(BUILD)/commit-$(COMMIT):
	@mkdir -p $(BUILD) && rm -f $(BUILD)/commit-* && touch $@

# The built-in page's files are copied into this object by .incbin, which the compiler's dependency files do not tell.
$(BUILD)/server/page/page.o: $(wildcard server/page/*.*)

# CPU kernels: the instruction set by the file's name.
$(BUILD)/engine/cpu/%_avx2.o $(BUILD)/tidied/engine/cpu/%_avx2.c: ISA = $(ISA_avx2)
$(BUILD)/engine/cpu/%_avx512.o $(BUILD)/tidied/engine/cpu/%_avx512.c: ISA = $(ISA_avx512)
$(BUILD)/engine/cpu/%_avxvnni.o $(BUILD)/tidied/engine/cpu/%_avxvnni.c: ISA = $(ISA_avxvnni)
$(BUILD)/engine/cpu/%_avx512vnni.o $(BUILD)/tidied/engine/cpu/%_avx512vnni.c: ISA = $(ISA_avx512vnni)
$(BUILD)/%.o: %.c $(BUILD)/called-cc
	@mkdir -p $(@D)
	$(if $(V),,@echo "  cc $<")
	$(Q)$(CC) $(CFLAGS_ALL) $(ISA) -MMD -MP -c -o $@ $<

$(BUILD)/%.o: %.cpp $(BUILD)/called-cxx
	@mkdir -p $(@D)
	$(if $(V),,@echo "  c++ $<")
	$(Q)$(CXX) $(CXXFLAGS_ALL) -MMD -MP -c -o $@ $<
$(BUILD)/emulated/%.o: %.cu $(BUILD)/called-cxx
	@mkdir -p $(@D)
	$(if $(V),,@echo "  c++ $< (emulated)")
	$(Q)$(CXX) -x c++ $(CXXFLAGS_ALL) -MMD -MP -c -o $@ $<

$(UNIT_TESTS) $(KERNEL_TESTS): $(BUILD)/%: $(BUILD)/%.o $(REFERENCE_OBJECTS) $(LIB) $(TEST_CUDA_OBJECTS)
	$(if $(V),,@echo "  ld $@")
	$(Q)$(CXX) $(SANITIZE) $(WRAPPED) -o $@ $^ $(LIB) $(LIBS) $(TEST_CUDA_LIBS) $(CHECK_LIBS)
# Tests in which allocations fail: the linker leads these calls through tests/unit/allocation_faults.c.
FAULT_CALLS = malloc calloc realloc aligned_alloc free strdup strndup asprintf open_memstream mmap64 open64 fopen64 fstat64 fread \
	pthread_create pthread_mutex_init pthread_cond_init pcre2_match_data_create_8 pcre2_match_context_create_8
comma := ,
$(BUILD)/tests/unit/test_faults_%: WRAPPED = $(FAULT_CALLS:%=-Wl$(comma)--wrap=%)
$(filter $(BUILD)/tests/unit/test_faults_%,$(UNIT_TESTS)): $(BUILD)/tests/unit/allocation_faults.o
$(EMULATION_TESTS): $(BUILD)/%: $(BUILD)/%.o $(EMULATED_OBJECTS) $(LIB)
	$(if $(V),,@echo "  ld $@")
	$(Q)$(CXX) $(SANITIZE) -o $@ $^ $(LIB) $(LIBS) $(CHECK_LIBS)
$(BUILD)/real/%.o: %.cpp $(BUILD)/called-nvcc
	@mkdir -p $(@D)
	$(if $(V),,@echo "  nvcc $<")
	$(Q)$(NVCC) -x cu $(NVCC_FLAGS) -MD -MP -MF $(@:.o=.d) -c -o $@ $<
$(BUILD)/real/tests/bench/bench_cuda: $(BUILD)/real/tests/bench/bench_cuda.o $(LIB) $(CUDA_OBJECTS)
	$(if $(V),,@echo "  ld $@")
	$(Q)$(CXX) -o $@ $^ $(LIB) $(LIBS) $(CUDA_LIBS)
$(REAL_TESTS): $(BUILD)/real/%: $(BUILD)/real/%.o $(LIB) $(CUDA_OBJECTS)
	$(if $(V),,@echo "  ld $@")
	$(Q)$(CXX) -o $@ $^ $(LIB) $(LIBS) $(CUDA_LIBS) $(CHECK_LIBS)
$(BENCHES): $(BUILD)/%: $(BUILD)/%.o $(LIB) $(CUDA_OBJECTS)
	$(if $(V),,@echo "  ld $@")
	$(Q)$(CC) $(SANITIZE) -o $@ $^ $(LIB) $(LIBS) $(CUDA_LIBS)
$(FUZZERS): $(BUILD)/%: $(BUILD)/%.o $(LIB) $(BUILD)/cuda/host/absent.o
	$(if $(V),,@echo "  ld $@")
	$(Q)$(CC) $(SANITIZE) -fsanitize=fuzzer -o $@ $^ $(LIB) $(LIBS)

-include $(shell find $(BUILD) -mindepth 1 \( -name asan -o -name tsan -o -name coverage -o -name fuzz -o -name gpu \) -prune -o -name '*.d' -print 2>/dev/null)
