"""How likely an answer is: against the model's next-token probabilities, taken one by one."""

from __future__ import annotations

import math

import pytest
import torch

from setok.data.schema import Turn
from setok.errors import DataError
from setok.models.generation import GenerationOptions
from setok.predictor import Likelihood, Predictor
from tests.sequences import square
from tests.setokim_runs import write_run

TEXT_ONLY = GenerationOptions(mode="text", max_new_tokens=12)
TEXT = "what colour is the square ? red blue green a and yes no left right"


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor.from_pretrained(write_run(tmp_path_factory.mktemp("run"), TEXT), batch_size=2)


def one_by_one(predictor: Predictor, talk: list[Turn], answer: str, pictures: list[torch.Tensor]) -> Likelihood:
    """The same by reading prompt and answer token by token, every prefix alone."""
    model = predictor.model
    ids = [*model.text_tokenizer(answer, add_special_tokens=False).input_ids, model.text_tokenizer.eos_token_id]
    batch, _ = predictor.inference.prompts([talk], [pictures], guided=False)
    images = model.encode_images(batch.pixel_values)
    rows = model.splice(batch, images)
    embeddings = model.embed(rows, images)
    total, greedy = 0.0, True
    with torch.no_grad():
        for token in ids:
            length = embeddings.shape[1]
            places = torch.arange(length).unsqueeze(0)
            hidden = model.language_model(embeddings, torch.ones(1, length, dtype=torch.long), places)
            logits = model.language_model.logits(hidden[:, -1])[0].double()
            total += float(logits.log_softmax(0)[token])
            greedy &= int(logits.argmax()) == token
            embeddings = torch.cat([embeddings, model.language_model.embed(torch.tensor([[token]]))], 1)
    return Likelihood(log_probability=total, num_tokens=len(ids), is_greedy=greedy)


def asked(*texts: str) -> list[Turn]:
    return [Turn(role="assistant" if number % 2 else "user", text=text) for number, text in enumerate(texts)]


RED, BLUE = square("red", 4, 6)[0], square("blue", 14, 9)[0]
CASES = [
    (asked("<image>\nwhat colour is the square ?"), "red", [RED]),
    (asked("what"), "blue and green", []),
    (asked("<image>\nis the square left ?", "yes", "<image>\nand right ?"), "no", [RED, BLUE]),
    (asked("<image>\nwhat colour is the square ?"), "", [BLUE]),
    (asked("is it red"), "square", []),
]


def test_is_the_sum_over_tokens_taken_one_by_one(predictor: Predictor) -> None:
    found = predictor.likelihoods([talk for talk, _, _ in CASES], [a for _, a, _ in CASES], [p for *_, p in CASES])
    for one, (talk, answer, pictures) in zip(found, CASES, strict=True):
        expected = one_by_one(predictor, talk, answer, pictures)
        assert one.log_probability == pytest.approx(expected.log_probability, abs=1e-4)
        assert (one.num_tokens, one.is_greedy) == (expected.num_tokens, expected.is_greedy)


def test_the_probabilities_of_all_answers_of_one_word_sum_below_one(predictor: Predictor) -> None:
    """Every answer ends, so together with longer ones they share a probability of 1; at most one is what the model says."""
    talk, words = CASES[0][0], sorted(set(TEXT.split()))
    found = predictor.likelihoods([talk] * (len(words) + 1), ["", *words], [[RED]] * (len(words) + 1))
    assert 0 < sum(math.exp(one.log_probability) for one in found) < 1
    assert sum(one.is_greedy for one in found) <= 1


def test_what_the_model_says_is_greedy(predictor: Predictor) -> None:
    """The output layer is turned so that the model answers ``red`` and ends."""
    talk, pictures = CASES[0][0], [RED]
    model = predictor.model
    head = model.language_model.base.get_output_embeddings().weight
    before = head.detach().clone()
    red, end = model.text_tokenizer("red", add_special_tokens=False).input_ids[0], model.text_tokenizer.eos_token_id
    try:
        with torch.no_grad():
            for said, following in (([], red), ([red], end)):
                state = last_state(predictor, talk, pictures, said)
                head[following] = 50 * state / state.norm()
        assert predictor.chat([talk], [pictures], options=TEXT_ONLY)[0].text == "red"
        found = predictor.likelihoods([talk] * 4, ["red", "", "blue", "red red"], [pictures] * 4)
        assert [one.is_greedy for one in found] == [True, False, False, False]
        assert found[0].log_probability == max(one.log_probability for one in found)
    finally:
        with torch.no_grad():
            head.copy_(before)


@torch.no_grad()
def last_state(predictor: Predictor, talk: list[Turn], pictures: list[torch.Tensor], said: list[int]) -> torch.Tensor:
    """The hidden state behind a prompt and some tokens."""
    model = predictor.model
    batch, _ = predictor.inference.prompts([talk], [pictures], guided=False)
    images = model.encode_images(batch.pixel_values)
    embeddings = model.embed(model.splice(batch, images), images)
    if said:
        embeddings = torch.cat([embeddings, model.language_model.embed(torch.tensor([said]))], 1)
    length = embeddings.shape[1]
    ones, places = torch.ones(1, length, dtype=torch.long), torch.arange(length).unsqueeze(0)
    return model.language_model(embeddings, ones, places)[0, -1]


def test_a_place_that_is_missing_is_refused(predictor: Predictor) -> None:
    with pytest.raises(DataError, match=r"1 <image> slots and 0 pictures"):
        predictor.likelihoods([CASES[0][0]], ["red"], [[]])
    with pytest.raises(DataError, match=r"1 were asked and there are 2 answers"):
        predictor.likelihoods([CASES[0][0]], ["red", "blue"], [[RED]])
    with pytest.raises(DataError, match=r"too long(.|\n)*sequence.max_length"):
        predictor.likelihoods([asked("what")], ["red " * 300])
