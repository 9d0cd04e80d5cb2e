"""Normalisation, and the filter that keeps prose of every script and drops what is none."""

from __future__ import annotations

import base64
import hashlib
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.quality import judge, normalise, repeated_line_share, repeated_ngram_share, words

PROSE = {
    "english": "The committee met on Tuesday to discuss the budget, and everyone agreed that it was too small. " * 2,
    "chinese": "今天的会议讨论了明年的预算,大家都认为数目太小,需要重新考虑各个部门的安排。我们决定下周再次开会。",
    "japanese": "今日の会議では来年の予算について話し合いました。金額が少なすぎると全員が考えています。",
    "arabic": "ناقشت اللجنة ميزانية العام المقبل يوم الثلاثاء واتفق الجميع على أنها صغيرة جدا ويجب زيادتها قريبا",
    "hindi": "समिति ने मंगलवार को अगले वर्ष के बजट पर चर्चा की और सभी सहमत थे कि यह बहुत छोटा है",
    "thai": "คณะกรรมการประชุมเมื่อวันอังคารเพื่อหารือเกี่ยวกับงบประมาณปีหน้าและทุกคนเห็นพ้องกันว่ามันน้อยเกินไป",
    "korean": "위원회는 화요일에 만나 내년 예산을 논의했고 모두가 예산이 너무 적다는 데 동의했습니다",
    "emoji": "We won the match today! 🎉🎉 What a night 🏟️⚽ see you all on Sunday 👋🏽 👩‍👩‍👧‍👦 ❤️",
    "only emoji": "🎉 ⚽ 🏟️ 👋🏽 ❤️ 👩‍👩‍👧‍👦 🇫🇷 🍕 🌍 ✨",
    "code": "def area(radius):\n    # A circle's area.\n    return 3.14159 * radius ** 2\n\nprint(area(2.0))\n",
    "arithmetic": "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nShe sold 48+24 = <<48+24=72>>72 in all.\n#### 72",
    "address": "Claudius Ptolemy: http://www.example.org/history/Biographies/of-astronomers/Ptolemy.html. A biography.",
    "combining": unicodedata.normalize("NFD", "Nguyễn Thị Hằng đã đến trường sớm vào buổi sáng thứ ba tuần trước."),
}

JUNK = {
    "control_characters": "data \x01\x02\x03 with \x04\x05 bytes",
    "symbols": "=====-----=====+++++ 12 / 34 * 56 == {} [] () ;; ## a b",
    "repeated_lines": "Accept all cookies\n" * 20,
    "repeated_ngrams": "buy cheap watches now " * 30,
    "word_length": " ".join(base64.b64encode(hashlib.sha256(bytes([n])).digest()).decode()[:16] for n in range(25)),
}


@pytest.mark.parametrize("name", PROSE)
def test_prose_of_every_script_passes(name):
    text = normalise(PROSE[name], "NFC")
    assert judge(PROSE[name], text) is None


@pytest.mark.parametrize("reason", JUNK)
def test_each_rule_drops_its_own_kind(reason):
    verdict = judge(JUNK[reason], normalise(JUNK[reason], "NFC"))
    assert verdict is not None
    assert verdict.reason == reason


@pytest.mark.parametrize("text", ["a" * 5_000, "啊" * 5_000, "😀" * 5_000, "ha " * 500])
def test_one_thing_said_again_and_again_is_dropped_in_any_script(text):
    verdict = judge(text, text)
    assert verdict is not None
    assert verdict.reason == "repeated_ngrams"


def test_shares_on_worked_examples():
    assert repeated_line_share("aa\nbb\naa\naa") == pytest.approx(0.5)
    assert repeated_line_share("aa\naa\naa") == 0.0  # three lines are too few to judge
    assert repeated_ngram_share([str(number % 10) for number in range(104)]) == pytest.approx(0.9)


def test_normalise_on_worked_examples():
    assert normalise("\ufeff a\r\nb\rc\x00d\x0ce\tf \n", "NFC") == "a\nb\ncd\ne\tf"
    assert normalise("e\u0301", "NFC") == "é"
    assert normalise("e\u0301", "none") == "e\u0301"
    assert normalise("\ufb01x\u00b2", "NFKC") == "fix2"
    assert normalise("lone \ud800 and pair \ud83d\ude00", "NFC") == "lone \ufffd and pair 😀"
    assert normalise("\x00\x01 \u3000", "NFC") == ""


@given(st.text(st.characters(exclude_categories=()), max_size=60), st.sampled_from(["none", "NFC", "NFKC"]))
@settings(max_examples=300, derandomize=True, deadline=None)
def test_normalise_is_idempotent_and_writable(text, form):
    once = normalise(text, form)
    assert normalise(once, form) == once
    assert once.encode("utf-8").decode("utf-8") == once
    assert "\r" not in once
    assert "\x00" not in once


def test_words_of_spaced_and_unspaced_scripts():
    assert words("Straße, naïve_2 x!") == ["strasse", "naïve_2", "x"]
    assert words("日本語 text ไทย") == ["日", "本", "語", "text", "ไ", "ท", "ย"]
