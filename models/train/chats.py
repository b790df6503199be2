"""Generated training chats: facts in a text, questions about them, and good manners.

A chat is a list of pieces (token ids, weight): the weight is what a token counts in the loss. A value in an answer
counts most; a value that a text tells counts nothing, because nobody can predict it.
"""

import bisect

NAMES = """Anna Boris Natasha Pierre Andrew Sonya Nicholas Mary Helene Vera Denisov Dolokhov Anatole Julie Kutuzov
Napoleon Alexander Catherine Michael Peter Paul Tikhon Platon Lisa Marta Olga Ivan Igor Nina Clara Emma Hugo Oscar Felix
Alice Bob Carol David Erik Frida Greta Henry Iris Jonas Karl Laura Max Nora Otto Paula Robert Simon Thomas Ursula Victor
Walter Tom Sarah Lucy Jack Leo Mia Zoe Adam Eva""".split()
THINGS = """garden cellar gate safe library kitchen tower harbour school mill bridge stable church market castle attic
workshop station theatre museum zoo office vault boat""".split()
CITIES = """Lisbon Oslo Cairo Lima Kyoto Dublin Prague Quito Athens Vienna Paris London Moscow Berlin Rome Madrid Warsaw
Tokyo Delhi Geneva Zurich Venice Milan Naples Smolensk""".split()
NOUNS = """marigold tangerine saxophone penguin volcano avocado kangaroo harmonica cinnamon dolphin lantern pepper rocket
anchor balloon candle dragon feather guitar hammer island jacket kettle ladder mirror needle oyster pencil rabbit saddle
ticket umbrella violin walnut yellow zebra basket carpet diamond eagle falcon ginger honey ivory jungle lemon magnet
nutmeg orchid parrot""".split()
COLOURS = "red blue green yellow black white brown grey pink purple orange silver golden violet".split()
ANIMALS = "dog cat horse cow pig goat sheep wolf bear fox lion tiger mouse rabbit eagle owl duck goose snake frog".split()
FRUITS = "apple pear plum cherry lemon orange peach grape melon fig banana mango berry quince".split()
TRADES = """doctor baker farmer soldier teacher painter sailor miller smith tailor lawyer singer writer hunter cook clerk
priest driver nurse dancer""".split()
DRINKS = "tea coffee milk water wine beer juice cider brandy cocoa".split()
TITLES = "Professor Doctor Captain Colonel Princess Count Uncle Aunt Mister Lady".split()


def number(digits):
    return lambda r: str(r.randrange(10 ** (digits - 1), 10 ** digits))


def any_number(r):
    return number(r.choice((1, 2, 3, 3)))(r)


def of(words):
    return lambda r: r.choice(words)


# kind of fact, what it is of, the preposition, value
PERSONAL = [("code", "of", number(5)), ("number", "of", any_number), ("room", "of", number(3)), ("age", "of", number(2)),
            ("password", "of", of(NOUNS)), ("colour", "of", of(COLOURS)), ("city", "of", of(CITIES)),
            ("animal", "of", of(ANIMALS)), ("fruit", "of", of(FRUITS)), ("job", "of", of(TRADES)),
            ("drink", "of", of(DRINKS)), ("pin", "of", number(5)), ("word", "of", of(NOUNS)), ("ticket", "of", number(5))]
PLACES = [("code", "of", number(5)), ("password", "of", of(NOUNS)), ("colour", "of", of(COLOURS)),
          ("key number", "of", number(3)), ("secret word", "of", of(NOUNS)), ("price", "of", any_number)]
MAGIC = [("special magic number", "for", number(5)), ("special magic word", "for", of(NOUNS))]
ALL_WORDS = [NAMES, THINGS, CITIES, NOUNS, COLOURS, ANIMALS, FRUITS, TRADES, DRINKS, TITLES]

ASK = ["What is the {s}?"] * 6 + ["Tell me the {s}.", "Do you know the {s}?", "Please tell me the {s}.", "And the {s}?",
                                   "the {s}?", "What was the {s}?", "What is the {s} that is mentioned in the text?",
                                   "What is the {s} that is mentioned in the text?"]
NOTED = ["Noted.", "I will remember that.", "Thank you, I have noted it.", "All right."]
INTRO = ["Read this text.", "Remember what this text says.", "Here is a text.", "Please read the following.", "Remember this."]

ABOUT = ("I am the demo model of winnow, a very small model. Tell me facts, as in \"The code of Anna is 48213.\", hide "
         "them in a long text, and ask me for them.")
SMALL_TALK = [
    (("Hello!", "Hello", "Hi!", "Hi", "Hey", "Good day!", "Hello there!", "hello", "hi"),
     ("Hello! Tell me some facts and ask me about them.",)),
    (("Good morning!", "Good morning"), ("Good morning! Tell me some facts and ask me about them.",)),
    (("Good evening!", "Good evening"), ("Good evening! Tell me some facts and ask me about them.",)),
    (("How are you?", "How are you today?", "How do you do?", "how are you?"), ("I am well, thank you. How can I help you?",)),
    (("Who are you?", "What are you?", "What is your name?", "Introduce yourself.", "What is winnow?", "who are you?"), (ABOUT,)),
    (("What can you do?", "Can you help me?", "Help!", "help", "How does this work?"),
     ("I can find facts in a long text. Tell me something like \"The code of Anna is 48213.\" and ask me for it later.",)),
    (("Thank you!", "Thanks!", "Thank you very much.", "thanks"), ("You are welcome.",)),
    (("Goodbye!", "Bye!", "Good night!", "See you soon.", "bye"), ("Goodbye!",)),
    (("What is the capital of France?", "Who wrote this book?", "How much is two and two?", "Write a poem.", "Tell me a joke.",
      "What is the weather today?", "Explain gravity.", "Translate this.", "Write a program.", "Why is the sky blue?"),
     ("I am too small to know that. I only know what you tell me in this chat.",)),
]


def vocabulary_sample(r):
    """Texts in which every word of the chats is frequent enough to become one token."""
    out = []
    for group in ALL_WORDS:
        out += [(" " + w) * 400 for w in group]
    for kind, prep, _ in PERSONAL + PLACES + MAGIC:
        out += [f"The {kind} {prep} " * 100]
    for asked, answered in SMALL_TALK:
        out += [" ".join(asked) * 20, " ".join(answered) * 60]
    out += [" ".join(ASK) * 40 + " ".join(NOTED) * 40 + " ".join(INTRO) * 40 + "user\nassistant\nsystem\n" * 300 + " is unknown." * 200]
    r.shuffle(out)
    return out


class Facts:
    """Facts without contradictions, drawn so that names share kinds and kinds share names."""

    def __init__(self, r, n):
        self.known, self.missing, self.r = [], [], r
        owners = r.sample(NAMES, max(1, min(len(NAMES), 1 + n // r.choice((1, 2, 3)))))
        places = ["the " + t for t in r.sample(THINGS, 4)]
        cities = r.sample(CITIES, 4)
        if r.random() < 0.2:
            owners = [r.choice(TITLES) + " " + o for o in owners]
        style = r.random()
        pairs = set()
        while len(pairs) < n + 2:
            dice = r.random()
            if style < 0.25 or dice < 0.12:
                row, owner = r.choice(MAGIC), r.choice(cities if n < 5 else CITIES)
            elif dice < 0.3:
                row, owner = r.choice(PLACES), r.choice(places if n < 10 else ["the " + t for t in THINGS])
            else:
                row, owner = r.choice(PERSONAL), r.choice(owners)
            pairs.add((row[0], row[1], owner, row[2]))
        pairs = sorted(pairs, key=lambda p: p[:3])
        r.shuffle(pairs)
        for i, (kind, prep, owner, draw) in enumerate(pairs):
            subject = f"{kind} {prep} {owner}"
            if i < n:
                self.known.append((subject, draw(r), kind, owner))
            else:
                self.missing.append((subject, "unknown", kind, owner))


class Writer:
    """Writes chats of an exact number of tokens. `novel`: token ids of the text; `ends`: where sentences end in it."""

    def __init__(self, tokenizer, novel, ends):
        self.t, self.novel, self.ends, self.cache = tokenizer, novel, ends, {}
        self.start, self.stop = tokenizer.token_to_id("<|im_start|>"), tokenizer.token_to_id("<|im_end|>")

    def ids(self, text):
        got = self.cache.get(text)
        if got is None:
            got = self.t.encode(text).ids
            if len(self.cache) < 100000:
                self.cache[text] = got
        return got

    def put(self, out, text, weight):
        out.extend((i, weight) for i in self.ids(text))

    def role(self, out, role, weight=0.1):
        out.append((self.start, weight))
        self.put(out, role + "\n", weight)

    def end(self, out, weight):
        out.append((self.stop, weight))
        self.put(out, "\n", weight)

    def told(self, r, fact, line):
        """The sentence of a fact, as pieces."""
        subject, value, kind, owner = fact
        out = []
        lead = "\n" if line else " "
        form = r.random()
        if form < 0.1 and " for " not in subject:
            head = f"{lead}{owner[0].upper() + owner[1:]}'s {kind} is"
        elif form < 0.2:
            head = f"{lead}Remember that the {subject} is"
        else:
            head = f"{lead}The {subject} is"
        self.put(out, head, 0.2)
        self.put(out, " " + value, 0.0)
        self.put(out, ".", 0.2)
        if line:
            self.put(out, "\n", 0.1)
        return out

    def answer(self, out, fact):
        subject, value, _, _ = fact
        self.role(out, "assistant")
        self.put(out, f"The {subject} is", 1.0)
        self.put(out, " " + value, 3.0)
        self.put(out, ".", 1.0)
        self.end(out, 0.5)

    def question(self, r, fact):
        subject, _, kind, owner = fact
        if r.random() < 0.1 and " for " not in subject:
            return f"What is {owner}'s {kind}?"
        return r.choice(ASK).format(s=subject)

    def document(self, r, facts, n_tokens):
        """A piece of the novel with the facts in it, about n_tokens long."""
        sentences = [self.told(r, f, r.random() < 0.4) for f in facts]
        n_text = max(0, n_tokens - sum(map(len, sentences)))
        first = r.randrange(len(self.novel) - n_text - 1)
        places = sorted(r.randrange(n_text + 1) for _ in sentences)
        out, at = [], 0
        for place, sentence in zip(places, sentences):
            if not self.t.id_to_token(sentence[0][0]).startswith("\u010a"):
                place = self.sentence_end(first + place) - first
            place = min(max(place, at), n_text)
            out.extend((i, 0.3) for i in self.novel[first + at:first + place])
            out.extend(sentence)
            at = place
        out.extend((i, 0.3) for i in self.novel[first + at:first + n_text])
        return out

    def sentence_end(self, place):
        at = bisect.bisect_left(self.ends, place)
        return self.ends[at] if at < len(self.ends) and self.ends[at] - place < 60 else place

    def small_talk(self, r, out):
        asked, answered = r.choice(SMALL_TALK)
        self.role(out, "user")
        self.put(out, r.choice(asked), 0.05)
        self.end(out, 0.05)
        self.role(out, "assistant")
        self.put(out, r.choice(answered), 1.0)
        self.end(out, 1.0)

    def chat(self, r, n_tokens):
        """Pieces of a whole chat, n_tokens or a few more."""
        out = []
        if r.random() < 0.15:
            self.small_talk(r, out)
        n_facts = r.randint(1, max(2, min(24, n_tokens // 50)))
        facts = Facts(r, n_facts)
        n_asked = r.randint(1, max(2, min(12, n_tokens // 80)))
        n_document = n_tokens - 32 * n_asked - 20 - len(out)
        waiting, lead = None, ""
        if r.random() < 0.2:  # told in turns, without a text
            for i in range(0, n_facts, 4):
                self.role(out, "user")
                for j, f in enumerate(facts.known[i:i + 4]):
                    said = self.told(r, f, False)
                    out.extend(said if j else self.first(said))
                self.end(out, 0.05)
                self.role(out, "assistant")
                self.put(out, r.choice(NOTED), 0.5)
                self.end(out, 0.5)
        else:
            self.role(out, "user")
            if r.random() < 0.3:
                self.put(out, r.choice(INTRO), 0.05)
            bare = r.random() < 0.25  # nothing but facts, the question right behind them
            said = self.document(r, facts.known, 0 if bare else max(n_document, 20))
            out.extend(self.first(said) if bare else said)
            lead = " " if r.random() < (0.7 if bare else 0.15) else ""
            if not lead:
                self.put(out, "\n\n", 0.05)
            waiting = True
        while len(out) < n_tokens:
            if r.random() < 0.04 and not waiting:
                self.small_talk(r, out)
                continue
            fact = r.choice(facts.missing) if r.random() < 0.06 else r.choice(facts.known)
            if not waiting:
                self.role(out, "user")
            waiting = None
            self.put(out, lead + self.question(r, fact), 0.05)
            lead = ""
            self.end(out, 0.05)
            self.answer(out, fact)
        return out

    def first(self, said):
        """A sentence at the beginning of a message: without its leading space."""
        head = self.ids(self.t.decode([i for i, _ in said]).lstrip())
        tail = said[-(len(head) - 1):] if len(head) > 1 else []
        return [(head[0], said[0][1])] + tail if [i for i, _ in tail] == head[1:] else [(i, 0.0) for i in head]
