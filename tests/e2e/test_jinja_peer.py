#!/usr/bin/env python3
"""Our template interpreter against Python's jinja2, set up as transformers does it.

Every case is rendered by both; texts must be equal byte for byte, and where one fails the other must fail too.
In the chats, all user text carries a canary, which must never be in the bytes that we mark as the template's."""
import glob
import json
import os
import subprocess
import sys
import tempfile
import time

try:
    import jinja2
    import jinja2.ext
    import jinja2.nodes
except ImportError:
    print("SKIPPED: Python's jinja2 is not installed")
    print("0 passed, 0 failed")
    sys.exit(0)

HERE = os.path.dirname(os.path.abspath(__file__))
TEMPLATES = os.path.join(HERE, "..", "data", "templates")
PROGRAM = os.path.join(os.environ.get("BUILD", "build"), "tests", "unit", "test_jinja")
NOW = 1735689600  # 2025-01-01
CANARY = "\u00b6"


class Generation(jinja2.ext.Extension):
    """{% generation %}: in transformers an extension that records positions; here its body alone."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


ENVIRONMENT = jinja2.Environment(
    trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do", Generation]
)
ENVIRONMENT.filters["tojson"] = tojson
ENVIRONMENT.globals["raise_exception"] = raise_exception
ENVIRONMENT.globals["strftime_now"] = lambda f: time.strftime(f, time.gmtime(NOW))


def theirs(case):
    variables = dict(case["variables"])
    for name in ("bos_token", "eos_token"):
        if name in case:
            variables[name] = case[name]
    try:
        return {"text": ENVIRONMENT.from_string(case["template"]).render(**variables)}
    except Exception as problem:  # every failure of theirs must be one of ours
        return {"error": f"{type(problem).__name__}: {problem}"}


VARIABLES = {
    "s": "Hello World", "e": "", "sp": "  a b\tc \n", "u": "h\u00e9llo \u4e16\u754c \U0001f600", "n": 42, "neg": -7, "z": 0,
    "f": 3.5, "big": 1e20, "small": 1.5e-7, "t": True, "no": False, "nil": None, "l": [3, 1, 2], "ls": ["b", "A", "c"],
    "empty": [], "d": {"b": 1, "a": "x", "items": 5}, "ed": {}, "nested": {"x": [{"y": 1}, {"y": 2}]},
    "rows": [{"n": "x", "v": 2, "k": {"z": 1}}, {"n": "y", "v": 1, "k": {"z": 2}}, {"n": "X", "v": 2}],
    "q": 'it\'s "q" \\ \n\t\u0001', "csv": "a,b,,c", "lines": "one\ntwo\r\n\nthree", "mixed": [1, "a", None, True, 2.5, [1], {"k": "v"}],
}

EXPRESSIONS = r"""
1 + 2 * 3
(1 + 2) * 3
7 // 2
-7 // 2
7 % 3
-7 % 3
7 % -3
7.5 % 2
-7.5 // 2
7 / 2
4 / 2
2 ** 10
2 ** -1
2 ** 3 ** 2
-2 ** 2
- 2
+3
--3
1.5 + 1
0.1 + 0.2
1e20
1e15
1e16
123456789012345.678
1.0
100.0
1e-4
0.00001
1_000
0x1f
0b101
0o17
1 / 3
big
small
f
10 // 3.0
-0.0
true + 1
s + '!'
s ~ 1 ~ none ~ true ~ 1.5
s * 2
2 * 'ab'
'a' * -1
[1] * 3
[1] + [2]
(1,) + (2,)
1 + 'a'
'a' + 1
none + 1
[1] + (2,)
1 / 0
1 % 0
undefinedthing
undefinedthing + 1
undefinedthing.x
undefinedthing['x']
undefinedthing()
undefinedthing is defined
undefinedthing == undefinedthing
undefinedthing | length
undefinedthing ~ 'x'
undefinedthing | default('d')
undefinedthing < 1
'a' in undefinedthing
d.missing
d.missing.more
d['missing']
nil.x
nil['x']
nil.x.y
1 == 1.0
1 == true
'1' == 1
1 != 2
1 < 2 < 3
1 < 2 > 3
3 > 2 >= 2
'a' < 'b'
'a' < 1
[1,2] < [1,3]
[1,2] == [1,2]
(1,2) == [1,2]
{'a':1} == {'a':1.0}
{'a':1,'b':2} == {'b':2,'a':1}
none == none
none < 1
true and 'x'
false or 'y'
0 or none
'' and 1
not ''
not 1 == 2
not (1 in [1])
1 in [1,2]
3 not in [1,2]
'ell' in s
'x' not in s
1 in 'a1'
'a' in d
'zz' in d
2 in (1,2)
1 if true else 2
1 if false else 2
1 if false
(1 if false) is defined
1 if false else 2 if false else 3
'a' 'b' 'c'
"a\nb\t\\\'\"\x41\u00e9\U0001F600\101\q"
'a\
b'
[]
()
{}
[1, 'a', none, true, 1.5, [2], (3,), (1,2), {'k': 'v'}]
{'a': 1, 2: 'b', none: 3, true: 4}
[1,]
(1,)
1, 2
q
[q]
['it\'s']
['"']
[u]
mixed
d
nested
l[0]
l[-1]
l[5]
l[5] is defined
l[1:]
l[:-1]
l[::-1]
l[::2]
l[-2:]
l[5:]
l[2:0:-1]
l[::0]
l['a':]
s[0]
s[-1]
s[99]
s[1:4]
s[::-1]
s[::2]
s[-3:]
u[6:8]
u[::-1]
u[-1]
u | length
u | upper
u | reverse
(1,2,3)[1:]
d['b']
d.b
d['items']
d.items is defined
d['keys'] is callable
nested.x[0].y
nested.x.1.y
nested['x'][1]['y']
l.0
s.0
d[1]
d[[1]]
s is string
n is string
n is number
t is number
f is number
n is integer
t is integer
f is float
t is boolean
t is true
no is false
n is true
1 is true
none is none
nil is none
nil is defined
l is sequence
s is sequence
d is sequence
n is sequence
undefinedthing is sequence
l is iterable
n is iterable
s is iterable
d is iterable
nil is iterable
undefinedthing is iterable
d is mapping
l is mapping
range is callable
s is callable
undefinedthing is callable
3 is odd
4 is even
-3 is odd
2.5 is odd
9 is divisibleby 3
9 is divisibleby(4)
1 is eq 1
1 is equalto(2)
1 is ne 2
1 is lt 2
2 is gt 1
2 is le 2
2 is ge 3
1 is sameas 1
true is sameas true
1 is sameas true
1 is in [1,2]
'a' is in 'cat'
'ABC' is upper
'abc' is lower
'aB' is upper
'' is upper
n is not none
n is not string and true
not n is none
s is string or false
undefinedthing is not defined
1 is nosuchtest
1 | nosuchfilter
sp | trim
sp.strip()
sp.lstrip()
sp.rstrip()
'xxaxx'.strip('x')
'xyaxy'.lstrip('yx')
'xyaxy'.rstrip('xy')
'xxaxx' | trim('x')
'\u00a0\u2003a\u3000'.strip()
s | upper
s | lower
s | capitalize
'hELLO wORLD' | capitalize
'hello-world foo(bar) it\'s' | title
'hello-world foo(bar) it\'s'.title()
'hELLO'.capitalize()
'aBc'.swapcase()
s.upper()
s.lower()
'\u00e9\u00df\u0436\u03c3'.lower()
'\u00e9\u0436\u03c3'.upper()
'\u00c9\u0416'.lower()
csv.split(',')
csv.split(',', 1)
csv.split(',', maxsplit=2)
csv.rsplit(',', 1)
csv.split('')
sp.split()
sp.split(none, 1)
sp.rsplit(none, 1)
'a b c d'.rsplit(maxsplit=2)
'  a  b '.split(' ')
''.split()
''.split(',')
lines.splitlines()
lines.splitlines(true)
'a,b'.partition(',')
'a,b,c'.rpartition(',')
'abc'.partition('x')
'abc'.rpartition('x')
s.startswith('Hell')
s.startswith(('x', 'H'))
s.endswith('ld')
s.endswith(('a', 'b'))
s.startswith(['H'])
s.removeprefix('Hello ')
s.removesuffix('World')
s.removesuffix('x')
s.replace('o', '0')
s.replace('o', '0', 1)
s.replace('', '-')
s.replace('l', '')
s.replace('zz', 'y')
s | replace('l', 'L')
s | replace('l', 'L', 2)
12321 | replace(2, 9)
s.find('o')
s.find('o', 5)
s.find('o', 5, 6)
s.find('zz')
s.rfind('o')
s.rfind('o', 0, 5)
u.find('\u4e16')
s.index('W')
s.index('zz')
s.count('l')
s.count('')
s.count('l', 4)
'-'.join(['a', 'b'])
'-'.join([1])
','.join('abc')
'{} and {}'.format(1, 'a')
'{0}{1}{0}'.format('a', 'b')
'{x}{{}}'.format(x=1)
'{}'.format()
'123'.isdigit()
'12a'.isdigit()
''.isdigit()
'abc'.isalpha()
'ab1'.isalpha()
'ab1'.isalnum()
'  '.isspace()
'ABC'.isupper()
'abc'.islower()
s.nosuchmethod
s.nosuchmethod()
d.keys() | list
d.values() | list
d.items() | list
d.get('b')
d.get('zz')
d.get('zz', 7)
d.get()
ed.get('x') is none
l.index(1)
l.index(9)
l.count(3)
(1,2,1).count(1)
l | length
d | length
e | length
5 | length
none | length
l | count
l | first
l | last
empty | first
empty | first is defined
s | first
s | last
l | join
l | join(', ')
ls | join('+')
rows | join('|', attribute='n')
mixed | join('/')
l | sort
l | sort(reverse=true)
ls | sort
ls | sort(case_sensitive=true)
rows | sort(attribute='v') | map(attribute='n') | list
rows | sort(attribute='n') | map(attribute='v') | list
rows | sort(attribute='v', reverse=true) | map(attribute='n') | join
mixed | sort
l | reverse | list
s | reverse
l | unique | list
['a','A','b'] | unique | list
['a','A','b'] | unique(case_sensitive=true) | list
rows | unique(attribute='v') | map(attribute='n') | list
rows | map(attribute='k.z') | list
rows | map(attribute='k.z', default=0) | list
rows | map(attribute='zz', default='D') | list
ls | map('upper') | list
ls | map('replace', 'b', 'B') | join
[[1,2],[3]] | map('join', '-') | list
[[1,2],[3]] | map(attribute=0) | list
l | select | list
mixed | select('string') | list
l | select('gt', 1) | list
l | select('>', 1) | list
l | reject('odd') | list
l | select('in', [1,2]) | list
rows | selectattr('v', 'equalto', 2) | map(attribute='n') | list
rows | selectattr('v', '==', 2) | list | length
rows | rejectattr('v', 'eq', 2) | map(attribute='n') | list
rows | selectattr('k') | list | length
rows | selectattr('k', 'defined') | list | length
rows | rejectattr('k') | map(attribute='n') | list
l | map('nosuchfilter') | list
l | select('nosuchtest') | list
l | sum
rows | sum(attribute='v')
l | sum(start=10)
l | min
l | max
ls | min
ls | max
empty | max
rows | max(attribute='v')
d | items | list
undefinedthing | items | list
d | dictsort
{'b':1,'A':2,'c':0} | dictsort
{'b':1,'A':2,'c':0} | dictsort(true)
{'b':1,'A':2,'c':0} | dictsort(by='value')
{'b':1,'A':2,'c':0} | dictsort(reverse=true)
d | list
s | list
(1,2) | list
5 | list
5 | string
none | string
[1,'a'] | string
'12' | int
'12.7' | int
'x' | int
'x' | int(5)
'0x1f' | int(0, 16)
'101' | int(base=2)
3.9 | int
-3.9 | int
true | int
none | int
'1.5' | float
'x' | float
'x' | float(2.5)
3 | float
-5 | abs
-5.5 | abs
3.14159 | round(2)
2.5 | round
3.5 | round
2.675 | round(2)
42.55 | round(1, 'floor')
42.55 | round(1, 'ceil')
42 | round
'a' | round
nil | default('x')
nil | default('x', true)
'' | d('x', true)
undefinedthing | d
'a\nb\n\nc' | indent
'a\nb' | indent(2)
'a\nb' | indent(2, true)
'a\nb' | indent(width=2, first=true)
'a\n\nb\n' | indent(2, false, true)
'a\nb' | indent('> ')
'one two  three' | wordcount
'%s-%d' | format('a', 5)
'%s' | format
'<a href="x">&\'</a>' | e
'<b>' | escape
'<b>' | safe
d | tojson
mixed | tojson
nested | tojson(indent=2)
nested | tojson(indent=4)
u | tojson
u | tojson(ensure_ascii=true)
q | tojson
ed | tojson(indent=2)
[[], {}] | tojson(indent=2)
d | tojson(sort_keys=true)
d | tojson(separators=(',', ':'))
{1: 2, none: 3, true: 4} | tojson
(1, 2) | tojson
undefinedthing | tojson
big | tojson
1.0 | tojson
[1e300 * 1e10] | tojson
range(3) | list
range(1, 4) | list
range(5, 0, -2) | list
range(0) | list
range(0, 5, 0)
range(3) | join(',')
range('a')
dict(a=1, b='x')
dict({'a': 1}, b=2)
dict([('a', 1)])
namespace(a=1).a
namespace(a=1).b is defined
raise_exception('no')
strftime_now('%Y-%m-%d')
strftime_now('%d %b %Y')
s | upper | lower | title
(s | length) + 1
s | length + 1
-l | first
-1 | abs
1 + -1 | abs
'a' ~ 'b' | upper
not s is string
s.split(' ')[0].lower() | upper
[1, 2, 3][1:] | first
{'a': {'b': [1, 2]}}.a.b[1]
{'a': 1}['a']
{'a': 1,}.a
'abc'[1]
'%d%%' % 5
1 if s
a.b.c is defined
d.b is defined and d.b == 1
undefinedthing is defined and undefinedthing.x
"a" if n > 40 and n < 50 else "b"
((((1))))
[l, d][0][1]
foo bar
1 +
(1
[1
{'a'
'a
1..2
a.
| upper
1 |
is
@
not
1 not 2
{{ 1
x = 1
lambda
1 if
none.x
true.x
'%s and %s' % (1, 'a')
'%s' % (1, 2)
""".strip("\n").replace("'a\\\nb'\n", "").split("\n")

STATEMENTS = [
    "{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }};{% endfor %}",
    "{% for x in l %}{{ loop.previtem }}|{{ x }}|{{ loop.nextitem }};{% endfor %}",
    "{% for x in l %}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for x in [1,1,2] %}{{ loop.changed(x) }}{% endfor %}",
    "{% for x in l %}{% for y in ls %}{{ loop.depth }}{{ loop.depth0 }}{{ x }}{{ y }} {% endfor %}{% endfor %}",
    "{% for x in empty %}a{% else %}none{% endfor %}",
    "{% for x in undefinedthing %}a{% else %}none{% endfor %}",
    "{% for x in nil %}a{% endfor %}", "{% for x in 5 %}a{% endfor %}",
    "{% for x in l if x > 1 %}{{ x }}{{ loop.index }}/{{ loop.length }} {% endfor %}",
    "{% for x in l if x > 9 %}{{ x }}{% else %}no{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k in d %}{{ k }}{% endfor %}",
    "{% for k, v in d | dictsort %}{{ k }}={{ v }};{% endfor %}",
    "{% for a, b in [(1,2),[3,4]] %}{{ a }}{{ b }}{% endfor %}", "{% for a, b in [1] %}{% endfor %}",
    "{% for a, b in [(1,2,3)] %}{% endfor %}", "{% for (a, b) in [(1,2)] %}{{ a }}{{ b }}{% endfor %}",
    "{% for c in 'h\u00e9\u4e16' %}[{{ c }}]{% endfor %}",
    "{% for x in range(10) %}{% if x == 5 %}{% break %}{% endif %}{% if x is odd %}{% continue %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in range(3) %}{% for y in range(3) %}{% if y == 1 %}{% break %}{% endif %}{{ x }}{{ y }} {% endfor %}{% endfor %}",
    "{% set x = 1 %}{% for i in l %}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}",
    "{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}",
    "{% for i in [1,2] %}{% if i == 2 %}{{ y }}{% endif %}{% set y = 5 %}{% endfor %}{{ y is defined }}",
    "{% set ns = namespace(a=0) %}{% for i in l %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}",
    "{% set ns = namespace() %}{% set ns.x = 1 %}{{ ns.x }}", "{% set d.x = 1 %}", "{% set q = 1, 2 %}{{ q }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a, b = l %}", "{% set x %}a{{ 1 }}b{% endset %}{{ x }}{{ x | length }}",
    "{% set x | upper %}abc{% endset %}{{ x }}", "{% set x | replace('a', 'b') | upper %}abc{% endset %}{{ x }}",
    "{% if a is defined %}1{% elif n == 42 %}2{% else %}3{% endif %}", "{% if 0 %}1{% elif '' %}2{% else %}3{% endif %}",
    "{% macro m(a, b=2, c='x') %}{{ a }}-{{ b }}-{{ c }};{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(1, c='y') }}{{ m(a=5) }}",
    "{% macro m(a) %}[{{ a }}]{% endmacro %}{{ m() }}", "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{% endmacro %}{{ m(b=2) }}", "{% macro m(a) %}{% endmacro %}{{ m(1, a=2) }}",
    "{% macro m(a, b=a) %}{{ b }}{% endmacro %}{{ m(7) }}", "{% macro m() %}{{ n }}{{ y }}{% endmacro %}{% set y = 3 %}{{ m() }}",
    "{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}",
    "{% macro a() %}a{{ b() }}{% endmacro %}{% macro b() %}b{% endmacro %}{{ a() }}",
    "{% macro m() %}x{% endmacro %}{{ m() ~ m() }}{{ m() | upper }}{{ m.name }}",
    "{% for i in [1,2] %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}",
    "{% macro m() %}{% set z = 1 %}{% endmacro %}{{ m() }}{{ z is defined }}",
    "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}", "{% with %}{% set a = 1 %}{% endwith %}{{ a is defined }}",
    "{% set a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}",
    "{% filter upper %}abc{{ s }}{% endfilter %}", "{% filter replace('a', 'b') | upper %}abc{% endfilter %}",
    "{% generation %}x{% set q = 1 %}{{ q }}{% endgeneration %}{{ q | length }}",
    "{% do l.append(9) %}{{ l }}", "{% set _ = l.append(4) %}{{ l }}{{ l.pop() }}{{ l.pop(0) }}{{ l }}", "{{ l.pop(99) }}",
    "{% set x = [] %}{% for i in range(3) %}{% do x.append(i * 2) %}{% endfor %}{{ x }}{{ x.insert(0, 9) }}{{ x.extend([1]) }}{{ x }}",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{% do c.reset() %}{{ c.current }}",
    "{% set j = joiner(', ') %}{% for i in l %}{{ j() }}{{ i }}{% endfor %}",
    "a {# b #} c", "a\n{# b #}\nc", "a {#- b -#} c", "{# a", "a #}", "{##}x", "{#-#} x", "{# {{ x }} #}y",
    "{% raw %}{{ x }}{% endraw %}", "{% raw %}\n{% if %}\n{% endraw %}\nx", " {%- raw -%} {{ {%- endraw -%} x", "{% raw %}x", "a {%- raw %} b {% endraw -%} c",
    "{% raw %} {% endraw %}", "x\n  {% raw %}\n a\n  {% endraw %}\ny", "{%+ raw %} x {%+ endraw +%}\n y",
    "a\n", "a\n\n", "a\r\nb\r\n", "a\rb", "\n", "", " ", "{{ 1 }}\n", "{{ 1 }}\n\n", "{% if 1 %}\na\n{% endif %}\n",
    "  {% if 1 %}\n  a\n  {% endif %}\nb", "x {% if 1 %}\n a {% endif %}\n b", "  {%+ if 1 %}a{% endif %}", "  {{ 1 }}  ", "  {{- 1 -}}  x", "{{ 1 -}}\n\n x",
    "\n\n  {%- if 1 %} a {%- endif -%} \n b", "{% if 1 -%}\n a\n{%- endif %}", "{% if 1 +%}\na{% endif +%}\nb", "\t{% if 1 %}\t{% endif %}\t", "{{ 1 }}  {% if 1 %}\nx{% endif %}",
    "a{% if 1 %}\n\nb{% endif %}", "a  {# c #}\n  b", "  {# c #}  \n b", "{{ '}}' }}", "{{ '%}' }}", "{{ {'a': {'b': 1}}.a.b }}", "{{ {'a': {}} }}", "{{-5}}", "{{+5}}", "{{ -5 }}",
    "{ { x } }", "{", "{ %", "}}", "%}", "{{ }}", "{% %}", "{{", "{%", "{{ 1", "{% if", "{% if 1 %}", "{% endif %}", "{% else %}", "{% for x in l %}{% endif %}",
    "{% for x in l %}", "{% for in l %}{% endfor %}", "{% for x l %}{% endfor %}", "{% set %}", "{% set 1 = 2 %}", "{% set none = 2 %}", "{% nosuch %}", "{% macro %}{% endmacro %}",
    "{% macro m(a=1, b) %}{% endmacro %}", "{% macro m(a %}{% endmacro %}", "{{ f(a=1, 2) }}", "{{ range(stop=3) }}", "{% if 1 %}{% elif %}{% endif %}", "{% if %}{% endif %}",
    "{% break %}", "{{ 1 }}{{ 2 }", "{{ ) }}", "{{ (1] }}", "{% if 1 %}a{% else %}b{% else %}c{% endif %}", "{% for x in l %}{{ x }}{% else %}{% endfor %}{{ loop is defined }}",
    "{% for m in rows if m.v == 2 and m.n is defined %}{{ m.n }}{% if not loop.last %},{% endif %}{% endfor %}",
    "{% for x in [1,2,3][::-1] %}{{ x }}{% endfor %}", "{% for x in (1, 2) %}{{ x }}{% endfor %}", "{% for x in 1, 2 %}{{ x }}{% endfor %}",
    "{% set content = s %}{% set content = content.split(' ')[-1].lstrip('W') %}{{ content }}",
    "{% set loop_messages = rows[1:] %}{% for m in loop_messages %}{{ m.n }}{% endfor %}",
    "{% set x = rows | selectattr('v', 'eq', 2) | list %}{{ x[-1] == rows[2] }}", "{{ rows[0] == {'n': 'x', 'v': 2, 'k': {'z': 1}} }}",
    "{% set a = s %}{% set a = a ~ '!' %}{% set b = a ~ '?' %}{% set c = a ~ '.' %}{{ a }}{{ b }}{{ c }}",
    "{{ loop }}x", "{{ caller is defined }}",
    "{% if n is defined and n is number and not n is string %}ok{% endif %}", "{% if not n %}a{% elif not z %}b{% endif %}",
    "{% for x in l %}{{ x }}{{ ', ' if not loop.last }}{% endfor %}", "{{ 'x' if undefinedthing else 'y' }}{{ 'a' if undefinedthing is defined and undefinedthing }}",
    "{%- for x in l -%} {{ x }} {%- endfor -%}", "{% for x in l %}\n{{ x }}\n{% endfor %}\n", "{%if n%}a{%endif%}", "{%-if n-%} a {%-endif-%}", "{{s}}{{s|upper}}",
]


# Every filter on every kind of value, nothing included.
ODD_VALUES = ["none", "0", "false", "0.0", "''", "[]", "{}", "undefinedthing", "1", "true", "'ab c'", "[2, 1]", "(1, 2)",
              "{'a': 1}", "[none]"]
FILTERS = ["abs", "attr('a')", "capitalize", "count", "default('x')", "default('x', true)", "dictsort", "escape", "first",
           "float", "indent", "int", "items | list", "join", "join(',')", "last", "length", "list", "lower", "max", "min",
           "map('upper') | list", "map(attribute='a') | list", "map('nosuch') | list", "reject | list", "rejectattr('a') | list",
           "replace('a', 'b')", "reverse | list", "round", "select | list", "select('odd') | list",
           "selectattr('a') | list", "selectattr('a', 'equalto', 1) | list", "sort", "string", "sum", "title", "tojson",
           "trim", "unique | list", "upper", "wordcount"]


def cases_of_language():
    for value in ODD_VALUES:
        for name in FILTERS:
            source = "{{ " + value + " | " + name + " }}"
            yield source, {"template": source, "variables": {}}
    for expression in EXPRESSIONS:
        yield "{{ " + expression + " }}", {"template": "{{ " + expression + " }}", "variables": VARIABLES}
    yield "continued string", {"template": "{{ 'a\\\nb' }}", "variables": VARIABLES}
    for statement in STATEMENTS:
        yield statement, {"template": statement, "variables": VARIABLES}


def say(role, content, **more):
    return {"role": role, "content": content if content is None else CANARY + content.replace(" ", " " + CANARY), **more}


CALL = {"id": "abcdefghi", "type": "function", "function": {"name": CANARY + "sum", "arguments": {CANARY + "a": 1, "b": CANARY + "x"}}}
TOOL = {
    "type": "function",
    "function": {
        "name": CANARY + "sum", "description": CANARY + "<|im_end|> & \"adds\" \u4e16",
        "parameters": {"type": "object", "required": ["a"], "properties": {
            "a": {"type": "integer", "description": CANARY + "first"}, "b": {"type": "array", "items": {"type": "string"}},
            "c": {"type": "string", "enum": ["x", "y"]}, "d": {"type": ["string", "null"]}, "e": {"type": "object", "properties": {}}}},
    },
}
CHATS = {
    "one": [say("user", "Hello <|im_end|><|user|>")],
    "trimmed": [say("user", "  spaced \n"), say("assistant", " \n answer "), say("user", "\u00e9\u4e16\U0001f600")],
    "system": [say("system", "Be [INST] brief "), say("user", "hi"), say("assistant", "yes"), say("user", "go")],
    "late system": [say("user", "hi"), say("system", "late"), say("assistant", "yes")],
    "same twice": [say("user", "a"), say("user", "b")],
    "thinking": [say("user", "q"), say("assistant", "<think>\nwhy\n</think>\n\nA"), say("user", "r"), say("assistant", "<think>x</think>B")],
    "reasoning": [say("user", "q"), say("assistant", "A", reasoning_content=CANARY + "because\n")],
    "tool": [say("user", "add"), say("assistant", None, tool_calls=[CALL]), say("tool", "3 <|eot_id|>", tool_call_id="abcdefghi", name="sum"), say("assistant", "3")],
    "two tools": [say("user", "add"), say("assistant", "ok", tool_calls=[CALL, CALL]), say("tool", "3", tool_call_id="abcdefghi"), say("tool", "4", tool_call_id="abcdefghi"), say("user", "and")],
    "empty content": [{"role": "user", "content": ""}, {"role": "assistant", "content": None}],
    "no content": [{"role": "user"}],
}


def cases_of_chats():
    paths = sorted(glob.glob(os.path.join(TEMPLATES, "*.jinja"))) + os.environ.get("WINNOW_TEST_TEMPLATES", "").split()
    for path in paths:
        with open(path, encoding="utf-8", newline="") as file:
            source = file.read()
        for name, messages in CHATS.items():
            for more in ({}, {"add_generation_prompt": True}, {"tools": [TOOL], "add_generation_prompt": True},
                         {"tools": None, "enable_thinking": False, "add_generation_prompt": True, "date_string": CANARY + "d"},
                         {"tools": [TOOL, TOOL], "tools_in_user_message": False, "builtin_tools": [CANARY + "code_interpreter", CANARY + "sum"]}):
                yield f"{os.path.basename(path)} {name} {sorted(more)}", {
                    "template": source, "variables": {"messages": messages, **more}, "bos_token": "<s>", "eos_token": "</s>"}


def ours(cases):
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump([dict(case, now=NOW) for case in cases], file)
        file.flush()
        done = subprocess.run([PROGRAM, "--render", file.name], capture_output=True, timeout=300, check=True)
    return json.loads(done.stdout)


def main():
    named = list(cases_of_language()) + list(cases_of_chats())
    # jinja2 may change lists of the variables, so each case gets its own copy.
    wanted = [theirs(json.loads(json.dumps(case))) for _, case in named]
    passed = failed = 0
    for (name, _), want, got in zip(named, wanted, ours([case for _, case in named])):
        problem = None
        if want.get("text") != got.get("text"):
            problem = f"jinja2 {want}\n      we {got}"
        elif CANARY in got.get("marked", ""):
            problem = f"user text is marked as the template's: {got['marked']!r}"
        if problem:
            failed += 1
            print(f"FAILED {name!r}:\n  {problem}")
        else:
            passed += 1
    rendered = sum("text" in want for want in wanted)
    print(f"{rendered} cases render in jinja2, {len(named) - rendered} are errors there")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
