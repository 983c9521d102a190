#!/usr/bin/env python3
"""Makes tests/unit/common/model/data/tokenizer_cases.json: what the `tokenizers` library (pip install tokenizers) gives for
the demo model's tokenizer and for variants of it. Run in the repository's root. Only characters of Unicode 14 and older:
the library's tables are newer than those of the C libraries."""
import copy
import json
import tokenizers

BASE = json.load(open("models/demo/tokenizer.json"))
OUT = "tests/unit/common/model/data/tokenizer_cases.json"


def split(regex, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


def byte_level(prefix=False, regex=False):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}


def sequence(*steps):
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": list(steps)}}


def added(id, content, **flags):
    return dict(dict(id=id, content=content, single_word=False, lstrip=False, rstrip=False, normalized=False,
                     special=False), **flags)


CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
ADDED = [added(0, "<|endoftext|>", special=True), added(4096, "<a>"), added(4097, "<a>b", special=True),
         added(4098, "word", single_word=True), added(4099, "[L]", lstrip=True),
         added(4100, "[R]", rstrip=True, special=True), added(4101, "[B]", lstrip=True, rstrip=True),
         added(4102, "a\u00e9", normalized=True), added(4103, "e\u0301x", normalized=True), added(4104, "  "),
         added(4105, "\ufb01", normalized=True)]
# Keys that replace those of the demo model's file; "ignore_merges" goes into its model.
VARIANTS = {
    "demo": {},
    "ignore_merges": {"ignore_merges": True},
    "cl100k": sequence(split(CL100K), byte_level()),
    "o200k": sequence(split(O200K, "Removed", True), byte_level()),
    "three_steps": sequence(split(r"\p{N}{1,3}"), split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
                            byte_level(regex=True)),
    "words": sequence(split(r"\w+"), split(r"\s", "Removed"), byte_level(prefix=True)),
    "empty_matches": sequence(split(r"x*"), split(r"(?<=t)|(?=h)"), byte_level(prefix=True)),
    "lines": sequence(split(r"^.+$"), byte_level(prefix=True)),
    "prefix": {"pre_tokenizer": byte_level(True, True)},
    "nfc": {"normalizer": {"type": "NFC"}},
    "nfd_nfkc": {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "NFKC"}]}},
    "added": {"added_tokens": ADDED},
    "added_nfkd": {"added_tokens": ADDED, "normalizer": {"type": "NFKD"}},
}
TEXTS = [
    "", " ", "  ", "\n", "a", "Once upon a time, there was a little house.", "It's THEY'LL we've I'd 's 'S '\u017f",
    "   leading and trailing   ", "tabs\tand\r\nlines\n\n\nand   runs  ", "12 345 6789 \u00bd\u00b2 \u2167 \u0663\u0664",
    "na\u00efve caf\u00e9 cafe\u0301 \u00c5 A\u030a \u212b \u03a9 \u2126", "s\u0323\u0307 s\u0307\u0323 \ud55c\uae00 \u1112\u1161\u11ab",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8 42 \u4e2d\u6587", "\U0001f44d\U0001f3fd \U0001f468\u200d\U0001f469\u200d\U0001f467 \U00010000\U0010ffff",
    "no\u00a0break\u2003em\u3000wide\u180enone\u0085next\u200bzero\u2028line", "\u0001\u001f\u007f\ufffd\uffff\ue000",
    "<|endoftext|>", "a<|endoftext|>b <|endoftext|><|endoftext|> <|endoftext", "<a><a>b<a>bc word words sword word-word \u00e9word word",
    "x [L] y  [R]  z   [B]   w[B][B] [L] [R] ", "a\u00e9 ae\u0301 e\u0301x \u00e9x \ufb01 fi  four    spaces",
    "He said: \"Well...\" -- and (then) [left]; didn't he?! #1 @home a_b c/d e\\f", "xxhtthe the xthx",
    "supercalifragilisticexpialidocious" * 3, "AbCdEF camelCase HTTPServer's iPhone McDonald\u2019s \u01c5ungla \u00dfS\u1e9e",
]


def main():
    variants = []
    for name, change in VARIANTS.items():
        spec = copy.deepcopy(BASE)
        spec["model"]["ignore_merges"] = change.get("ignore_merges", False)
        spec.update({k: v for k, v in change.items() if k != "ignore_merges"})
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(spec))
        cases = []
        for text in TEXTS:
            ids = []
            for plain in (False, True):
                tokenizer.encode_special_tokens = plain
                ids.append(tokenizer.encode(text, add_special_tokens=False).ids)
            cases.append({"text": text, "ids": ids[0], "plain_ids": None if ids[0] == ids[1] else ids[1],
                          "decoded": tokenizer.decode(ids[0])})
        variants.append({"name": name, "change": change, "cases": cases})
    # Any ids, so that characters are cut in every way.
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(BASE))
    state, streams = 1, []
    for _ in range(20):
        ids = []
        for _ in range(60):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            ids.append((state >> 33) % 257)
        streams.append({"ids": ids, "decoded": tokenizer.decode(ids)})
    with open(OUT, "w") as f:
        json.dump({"made_with": "tokenizers " + tokenizers.__version__, "variants": variants, "streams": streams}, f,
                  separators=(",", ":"))
        f.write("\n")


main()
