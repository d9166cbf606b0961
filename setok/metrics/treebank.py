"""Words of English captions as the caption benchmarks count them: cut as in the Penn Treebank, in lower case, no punctuation.

The published figures of BLEU, ROUGE-L, METEOR and CIDEr-D on COCO are over the tokens of Stanford's ``PTBTokenizer`` (CoreNLP
3.4.1), a Java program. This module was written from what that program puts out, and agrees with it on captions; where a text
holds markup, addresses in uncommon shapes, or other scripts, the two may differ. Quotes, dashes, commas, colons, semicolons and
the ends of sentences are no words and are left out; brackets stay, named ``-lrb-`` and so on, as they do in the benchmark.
"""

from __future__ import annotations

import functools
import re

_ABBREVIATIONS = """
adj adm adv al ala alex apr ariz assn assoc asst atty attys aug ave bancorp bhd bldg blvd brig bros calif capt cf cie
cmdr co col colo comdr conn corp cos cpl ct dak dec dept det dr drs elec ens esq est etc ext feb fla fri ft ga gen gov
govs hon inc ind insp intl invt jan jos jr jul jun kan kans ky lieut lt ltd maj mar md messrs mfg mich minn mlle mme
mo mon mont mr mrs ms msgr mt mtg natl neb nev nov oct okla penn pfc ph plc ppte ppty pres prof profs pte ptes pty
ptys pvt rd rep reps rev rt sen sens sep sept seq sfc sgt spc sq sr st ste supt sys tel tenn thu thurs tue tues univ
va vs vt wed wis wisc wm wyo
""".split()
_WITH_CAPITAL = "ark az del ill la mass miss ore pa tex wash".split()
"""Abbreviations only where they begin with a capital: ``Miss.`` is one, ``miss.`` ends a sentence."""
_BEFORE_NUMBER = "art ca fig figs no nos op pp prop".split()
"""Abbreviations only before a number: ``no. 5``."""

_SPLIT_WORDS = {
    "cannot": "can not", "gonna": "gon na", "gotta": "got ta", "lemme": "lem me", "gimme": "gim me", "wanna": "wan na",
    "'tis": "'t is", "'twas": "'t was",
}  # fmt: skip
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_SIGNS = {"£": "#", "€": "$", "¢": "cents", "½": "1/2", "¼": "1/4", "¾": "3/4", "&amp;": "&"}
_TYPOGRAPHIC = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "--", "—": "--", "…": "..."})


def _either(words: list[str]) -> str:
    return "|".join(sorted(words, key=lambda word: (-len(word), word)))


_LETTER = r"[^\W\d_]"
_PLAIN = r"[^\W_]+(?:_+[^\W_]+)*"
_END = rf"(?!{_LETTER}|\d)"
_PLACES = [form for word in _WITH_CAPITAL for form in (word.capitalize(), word.upper())]
_TOKEN = re.compile(
    rf"""
      (?P<address>https?://\w[^\s"<>|()]*[^\s"<>|().,!?;:'] | www\.(?:[\w-]+\.)+[a-z]{{2,4}}(?:/[^\s"<>|()]*[\w/])?)
    | (?P<mail>[\w.+-]*\w@\w[\w-]*(?:\.[\w-]+)*)
    | (?P<tag></?[a-zA-Z][^<>]*>)
    | (?P<handle>[@\#][A-Za-z]\w*)
    | (?P<face>[:;=]'?-?(?:[()]|[DPp]{_END}) | :-?[\[\]] | :\\ | [xX]D{_END} | \^_\^ | -_-)
    | (?P<sign>&amp;|[£€¢½¼¾])
    | (?P<dollar>(?:US|HK|[ACM])\$)
    | (?P<mixed>\d+\ \d+/\d+{_END})
    | (?P<split>(?i:{_either(list(_SPLIT_WORDS))}){_END})
    | (?P<clitic>(?i:'(?:[msd]|re|ve|ll)){_END})
    | (?P<negation>(?i:n't){_END})
    | (?P<whole>(?i:ma'am|o'clock|ol'|nat'l|ne'er|[oe]'er|'em|'till?|'cause|'n'?|'\d0s|[old]'{_LETTER}{{2,}}|y'(?=all)){_END})
    | (?P<elided>[A-Z]'[a-z]{{2,}}{_END})
    | (?P<ampersand>[A-Z]+(?:&[A-Z]+)+{_END})
    | (?P<hyphened>{_PLAIN}(?:\.{_LETTER}\w*)*(?:[.,]{{0,3}}-{_PLAIN}(?:/{_PLAIN})*)+ | {_PLAIN}(?:/{_PLAIN})+(?:-{_PLAIN})*)
    | (?P<degree>(?i:ph\.d\.))
    | (?P<letters>(?:{_LETTER}\.)+(?:{_LETTER}{_END})?(?!{_LETTER}))
    | (?P<short>(?i:{_either(_ABBREVIATIONS)})\.(?!{_LETTER}))
    | (?P<place>(?:{_either(_PLACES)})\.(?!{_LETTER}))
    | (?P<ordinal>(?i:{_either(_BEFORE_NUMBER)})\.(?=\s*\d))
    | (?P<negated>{_LETTER}*?(?![nN]){_LETTER}(?=(?i:n't){_END}))
    | (?P<dotted>{_LETTER}\w*(?:\.{_LETTER}\w*)+)
    | (?P<stopped>{_LETTER}+\.(?=[,;:]))
    | (?P<number>[+-]?\d*(?:[.,:]\d+)+ | (?<![^\W_])[+-]\d+{_END})
    | (?P<plain>{_PLAIN})
    | (?P<repeated>[!?]{{2,}} | \*{{2,}} | _+ | -{{5,}})
    | (?P<mark>--+|\.\.\.+)
    | (?P<other>\S)
    """,
    re.VERBOSE,
)
_DROPPED = frozenset(".,!?:;'\"`-")


def words(text: str) -> tuple[str, ...]:
    """The words of a caption, in lower case and in order; a line break is a blank.

    ``"A man's dog isn't here (now)."`` gives ``a man 's dog is n't here -lrb- now -rrb-``.
    """
    return _words(" ".join(text.split()))


@functools.lru_cache(maxsize=65536)
def _words(text: str) -> tuple[str, ...]:
    found: list[str] = []
    for match in _TOKEN.finditer(text.translate(_TYPOGRAPHIC)):
        token, kind = match.group().lower(), match.lastgroup
        if kind == "split":
            found.extend(_SPLIT_WORDS[token].split())
        elif kind == "mixed":
            found.append(token.replace(" ", "\N{NO-BREAK SPACE}"))
        elif kind == "sign":
            found.append(_SIGNS[token])
        elif kind == "face":
            found.append(token.replace("(", "-lrb-").replace(")", "-rrb-"))
        elif kind != "mark" and token not in _DROPPED:
            found.append(_BRACKETS.get(token, token))
    return tuple(found)
