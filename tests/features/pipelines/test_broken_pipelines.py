"""Pipelines that do not fit are refused at load, each with the edge or the line that is wrong."""

# ruff: noqa: E501  # a case is easier to read in one line

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_graphs import planned
from soaking import size

from salver.words.errors import LoadFailed

TOKENS = '[steps.tokens]\nuse = "tokenize"\n'
LOGITS = TOKENS + '[steps.network]\nmodel = "classifier"\n'
SCORES = LOGITS + '[steps.scores]\nuse = "softmax"\n'
BEST = SCORES + '[steps.best]\nuse = "arg-max"\n'
SURE = BEST + '[steps.sure]\nuse = "threshold"\ninputs = { values = "best.score" }\n'
SPLIT = '[steps.split]\nuse = "text-split"\n'
GATE = '[steps.small]\nmodel = "texts"\n'

#: Name, file, and what the error says.
BROKEN = [
    # Types of edges.
    ("rank", '[inputs]\nids = "INT64[-1]"\n[steps.network]\nmodel = "classifier"\ninputs = { input_ids = "ids", attention_mask = "ids" }',
     "ids -> network.input_ids: INT64[-1] where INT64[-1,-1] is wanted"),
    ("datatype", TOKENS + '[steps.network]\nmodel = "int32"',
     "tokens.input_ids -> network.input_ids: INT64[-1,-1] where INT32[-1,-1] is wanted"),
    ("extent", '[steps.a]\nmodel = "four"\n[steps.b]\nmodel = "scorer"\ninputs = { x = "a" }',
     "a.y -> b.x: FP32[-1,4] where FP32[-1,384] is wanted"),
    ("double", '[steps.a]\nmodel = "double"\n[steps.b]\nmodel = "four"\ninputs = { x = "a" }',
     "a.y -> b.x: FP64[-1,-1] where FP32[-1,4] is wanted"),
    ("texts into numbers", SPLIT + '[steps.b]\nuse = "softmax"\n', "split.text -> b.logits: BYTES[-1] where FLOAT[-1,...,-1] is wanted"),
    ("numbers into texts", LOGITS + '[steps.b]\nuse = "text-normalise"\ninputs = { text = "network.logits" }',
     "network.logits -> b.text: FP32[-1,2] where BYTES[-1] is wanted"),
    ("ints into softmax", TOKENS + '[steps.b]\nuse = "softmax"', "tokens.input_ids -> b.logits: INT64[-1,-1] where FLOAT[-1,...,-1] is wanted"),
    ("floats into labels", SCORES + '[steps.b]\nuse = "labels"\nnames = ["a"]',
     "scores.scores -> b.index: FP32[-1,2] where INT[-1,...] is wanted"),
    ("pool of scores", LOGITS + '[steps.b]\nuse = "pool"\ninputs = { states = "network.logits" }',
     "network.logits -> b.states: FP32[-1,2] where FLOAT[-1,-1,-1] is wanted"),
    ("mask of another rank", TOKENS + '[steps.n]\nmodel = "bert"\n[steps.b]\nuse = "pool"\ninputs = { attention_mask = "n.last_hidden_state" }',
     "n.last_hidden_state -> b.attention_mask: FP32[-1,-1,384] where INT[-1,-1] is wanted"),
    ("scalar into softmax", BEST + '[steps.b]\nuse = "softmax"\ninputs = { logits = "best.score" }',
     "best.score -> b.logits: FP32[-1] where FLOAT[-1,...,-1] is wanted"),
    ("boxes without corners", '[inputs]\nb = "FP32[-1,20,5]"\ns = "FP32[-1,20]"\n[steps.n]\nuse = "nms"\ninputs = { boxes = "b", scores = "s" }',
     "b -> n.boxes: FP32[-1,20,5] where FLOAT[-1,-1,4] is wanted"),
    ("as many scores as boxes", '[inputs]\nb = "FP32[-1,20,4]"\ns = "FP32[-1,21]"\n[steps.n]\nuse = "nms"\ninputs = { boxes = "b", scores = "s" }',
     "s -> n.scores: FP32[-1,21] where FP32[-1,20] is wanted"),
    ("two datatypes for one", '[inputs]\nb = "FP32[-1,20,4]"\ns = "FP64[-1,20]"\n[steps.n]\nuse = "nms"\ninputs = { boxes = "b", scores = "s" }',
     "s -> n.scores: FP64[-1,20] where FP32[-1,20] is wanted"),
    ("list of a flat tensor", SURE + '[steps.e]\nuse = "each"\ninputs = { list = "best.score" }',
     "best.score -> e.list: FP32[-1] where ANY[-1,-1,...] is wanted"),
    ("count of floats", SURE + '[steps.e]\nuse = "each"\ninputs = { list = "scores.scores", count = "best.score" }',
     "best.score -> e.count: FP32[-1] where INT[-1] is wanted"),
    ("cast of texts", '[inputs]\nt = "BYTES[-1]"\n[steps.c]\nuse = "cast"\ninputs = { values = "t" }',
     "t -> c.values: BYTES[-1] where NUMBER[-1,...] is wanted"),
    ("one of two inputs", '[inputs]\na = "FP32[-1,4]"\nb = "FP32[-1,5]"\n[steps.two]\nmodel = "two"',
     "b -> two.b: FP32[-1,5] where FP32[-1,4] is wanted"),
    ("model with one row", '[inputs]\nimage = "FP32[-1,3,9,9]"\n[steps.d]\nmodel = "detector"',
     "image -> d.image: FP32[-1,3,9,9] where FP32[-1,3,8,8] is wanted"),
    ("grid", '[steps.f]\nmodel = "four"\n[steps.g]\nmodel = "grid"\ninputs = { x = "f" }', "f.y -> g.x: FP32[-1,4] where FP32[-1,3,3] is wanted"),
    ("merge of two types", GATE + '[steps.a]\nuse = "threshold"\ninputs = { values = "small.score" }\nunless = "small.sure"\n[steps.m]\nuse = "merge"\ninputs = { first = "a.reached", second = "small.label" }',
     "small.label -> m.second: BYTES[-1] where BOOL[-1] is wanted"),
    ("mask of a string", TOKENS + '[steps.n]\nmodel = "bert"\ninputs = { attention_mask = "text" }',
     "text -> n.attention_mask: BYTES[-1] where INT64[-1,-1] is wanted"),
    ("inferred input for two", '[steps.a]\nuse = "text-normalise"\ninputs = { text = "x" }\n[steps.b]\nmodel = "four"\ninputs = { x = "x" }\n[outputs]\na = "a.text"\nb = "b.y"',
     "x -> b.x: BYTES[-1] where FP32[-1,4] is wanted"),
    # Conditions.
    ("condition of numbers", SCORES + '[steps.b]\nmodel = "texts"\ninputs = { text = "text" }\nwhen = "scores.scores"',
     "scores.scores -> b.when: FP32[-1,2] where BOOL[-1] is wanted"),
    ("condition of many", '[steps.f]\nmodel = "flags"\n[steps.b]\nmodel = "four"\ninputs = { x = "x" }\nwhen = "f.flags"',
     "f.flags -> b.when: BOOL[-1,4] where BOOL[-1] is wanted"),
    ("condition that is not there", GATE + '[steps.b]\nmodel = "texts"\ninputs = { text = "text" }\nwhen = "small.sur"',
     "small.sur -> b.when: step `small` has no output `sur`. Did you mean `sure`?"),
    ("when and unless", GATE + '[steps.b]\nmodel = "texts"\nwhen = "small.sure"\nunless = "small.sure"',
     "line 6: step `b` has both `when` and `unless`"),
    ("merge of one condition", GATE + '[steps.b]\nmodel = "texts"\ninputs = { text = "text" }\nwhen = "small.sure"\n[steps.m]\nuse = "merge"\ninputs = { first = "b.label", second = "b.label" }',
     "b.label and b.label -> m: the rows with small.sure and the rows with small.sure are not opposite parts"),
    ("merge the wrong way round", GATE + '[steps.b]\nmodel = "texts"\ninputs = { text = "text" }\nwhen = "small.sure"\n[steps.m]\nuse = "merge"\ninputs = { first = "small.label", second = "b.label" }',
     "small.label and b.label -> m: the request's rows and the rows with small.sure are not opposite parts"),
    ("merge of whole rows", GATE + '[steps.m]\nuse = "merge"\ninputs = { first = "small.label", second = "small.label" }',
     "small.label and small.label -> m: the request's rows and the request's rows are not opposite parts"),
    ("output under a condition", GATE + '[steps.b]\nmodel = "texts"\ninputs = { text = "text" }\nwhen = "small.sure"\n[outputs]\nlabel = "b.label"',
     "b.label -> outputs.label: the rows with small.sure where the request's rows are wanted"),
    ("two branches meet", GATE + '[steps.b]\nmodel = "texts"\ninputs = { text = "text" }\nwhen = "small.sure"\n[steps.c]\nmodel = "texts"\ninputs = { text = "text" }\nunless = "small.sure"\n'
     '[steps.j]\nuse = "json"\ninputs = { b = "b.label", c = "c.label" }',
     "c.label -> j.c: the rows without small.sure where the rows with small.sure are wanted"),
    ("fan-in under a condition", GATE + '[steps.s]\nuse = "text-split"\ninputs = { text = "text" }\n[steps.j]\nuse = "text-join"\ninputs = { text = "s.text" }\nwhen = "small.sure"',
     "step `j`: it puts lists together, and takes no condition"),
    # Lists.
    ("output of items", SPLIT, "split.text -> outputs.text: the items of split where the request's rows are wanted"),
    ("join of no list", '[inputs]\nt = "BYTES[-1]"\n[steps.j]\nuse = "text-join"\ninputs = { text = "t" }',
     "t -> j.text: the request's rows where items of lists are wanted"),
    ("two lists", SPLIT + '[steps.other]\nuse = "text-split"\nby = "words"\ninputs = { text = "text" }\n[steps.j]\nuse = "json"\ninputs = { a = "split.text", b = "other.text" }',
     "other.text -> j.b: the items of other where the items of split are wanted"),
    ("rows of items beside a join", SPLIT + '[steps.n]\nmodel = "texts"\ninputs = { text = "split.text" }\n[steps.c]\nuse = "collect"\ninputs = { item = "n.score" }\n[steps.j]\nuse = "json"\ninputs = { a = "c.count", b = "n.label" }',
     "j.json -> outputs.json: the items of split where the request's rows are wanted"),
    ("reduce of texts", SPLIT + '[steps.r]\nuse = "reduce"', "split.text -> r.values: BYTES[-1] where FLOAT[-1,...] is wanted"),
    # Names.
    ("no such step", '[steps.a]\nuse = "softmaxx"', "line 2: step `a`: there is no step `softmaxx`. Did you mean `softmax`?"),
    ("no such option", TOKENS + 'max_lenght = 3', "line 3: step `tokens`: unknown option `max_lenght` of tokenize. Did you mean `max_length`?"),
    ("no such key of a model", '[steps.a]\nmodel = "four"\ninput = { x = "x" }', "line 3: unknown key `input` of a model's step. Did you mean `inputs`?"),
    ("no such table", '[step.a]\nuse = "softmax"', "unknown key `step`. Did you mean `steps`?"),
    ("no such input of a step", TOKENS + 'inputs = { txt = "text" }', "line 3: text -> tokens.txt: step tokenize has no input `txt`. Did you mean `text`?"),
    ("no such input of a model", '[steps.a]\nmodel = "four"\ninputs = { y = "x" }', "x -> a.y: model four has no input `y`. It has: x"),
    ("no such output", LOGITS + '[outputs]\nx = "network.logit"', "line 6: output `x`: step `network` has no output `logit`. Did you mean `logits`?"),
    ("no such source step", LOGITS + '[outputs]\nx = "netwrk.logits"', "output `x`: there is no step `netwrk`. Did you mean `network`?"),
    ("misspelt step as an input", TOKENS + '[steps.n]\nmodel = "classifier"\ninputs = { input_ids = "tokns" }',
     "tokns -> n.input_ids: there is no step or input `tokns`. Did you mean `tokens`?"),
    ("no such declared input", '[inputs]\nreview = "BYTES[-1]"\n[steps.a]\nuse = "text-normalise"\ninputs = { text = "revew" }',
     "revew -> a.text: there is no step or input `revew`. Did you mean `review`?"),
    ("below", '[steps.a]\nuse = "text-normalise"\ninputs = { text = "b.text" }\n[steps.b]\nuse = "text-normalise"\ninputs = { text = "a.text" }',
     "b.text -> a.text: step `b` is not above it"),
    ("itself", '[steps.a]\nuse = "text-normalise"\ninputs = { text = "a.text" }', "a.text -> a.text: step `a` is not above it"),
    ("second input from nowhere", '[steps.a]\nmodel = "four"\n[steps.b]\nmodel = "two"\ninputs = { a = "a.y" }', "? -> b.b: no step above gives `b`"),
    ("nothing reads a step", LOGITS + '[steps.other]\nuse = "text-normalise"\ninputs = { text = "text" }\n[outputs]\nx = "network.logits"',
     "line 5: step `other`: nothing reads it"),
    ("nothing reads an input", '[inputs]\nx = "FP32[-1,4]"\nz = "FP32[-1]"\n[steps.a]\nmodel = "four"', "line 3: input `z`: nothing reads it"),
    ("an input and a step", '[inputs]\na = "FP32[-1,4]"\n[steps.a]\nmodel = "four"\ninputs = { x = "a" }', "line 2: `a` is an input and a step"),
    ("type of an input", '[steps.c]\nuse = "collect"\n', "c.item: the type of the input `item` is not known"),
    ("type of any input", '[steps.j]\nuse = "json"\ninputs = { a = "x" }', "x -> j.a: the type of the input `x` is not known"),
    # Form of the file.
    ("no TOML", "[steps.a\n", "pipeline.toml: "),
    ("no steps", "", "pipeline.toml has 0 steps"),
    ("step without a kind", "[steps.a]\n", "line 1: step `a` has neither `use` nor `model`"),
    ("step of two kinds", '[steps.a]\nuse = "pool"\nmodel = "four"', "line 1: step `a` has both `use` and `model`"),
    ("inputs of a step as a text", '[steps.a]\nuse = "softmax"\ninputs = "x"', "line 3: `steps.a.inputs` must be a table"),
    ("source as a number", '[steps.a]\nuse = "softmax"\ninputs = { logits = 3 }', "line 3: `steps.a.inputs.logits` must be a text, not 3"),
    ("type without rows", '[inputs]\nx = "FP32[4]"\n[steps.a]\nmodel = "four"', "line 2: input `x`: 'FP32[4]' is no type such as"),
    ("type of nothing", '[inputs]\nx = "FLOAT32[-1]"\n[steps.a]\nmodel = "four"', "line 2: input `x`: 'FLOAT32[-1]' is no type such as"),
    ("option of a wrong type", TOKENS + 'max_length = "many"', "line 3: step `tokens`: option `max_length`: expected `int`, got `str`"),
    ("option of a wrong value", SPLIT + 'by = "letters"', "line 3: step `split`: option `by`: invalid enum value 'letters'"),
    ("cast to nothing", '[inputs]\nt = "FP32[-1]"\n[steps.c]\nuse = "cast"\nto = "FP31"', "step `c`: cast: 'FP31' is no datatype of numbers"),
    ("name of a step", '[steps."a.b"]\nuse = "softmax"', "step 'a.b': its name has letters"),
]  # fmt: skip


#: What a file may hold in a wrong place.
SCRAPS = ["", "a", '"', "'", "[", "]", "{", "}", "=", ".", "\n", " ", "3", "-1", "true", "[]", "{}", '""', '"."', "#", "é", "\0",
          'when = "a.b"\n', "version = 3\n", 'use = "json"\n', 'inputs = { x = "a" }\n', "[steps.b]\n", "[steps.a.b]\n", "[outputs]\n"]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_graph_that_does_not_fit_names_its_edge(text: str, said: str) -> None:
    with pytest.raises(LoadFailed) as caught:
        planned(text)
    error = caught.value
    assert said in f"{error.message}. {error.fix}"
    assert error.message.startswith("pipeline.toml")


def test_the_corpus_is_as_large_as_it_should_be() -> None:
    assert len({text for _, text, _ in BROKEN}) >= 60


@pytest.mark.parametrize("text", [LOGITS, SURE, SPLIT + '[steps.j]\nuse = "text-join"\n', GATE])
def test_what_the_broken_ones_are_made_of_is_whole(text: str) -> None:
    assert planned(text).outputs


@pytest.mark.soak
@settings(max_examples=size(1500, 300), deadline=None)
@given(st.sampled_from([text for _, text, _ in BROKEN]), st.data())
def test_whatever_a_file_holds_the_error_is_of_the_file(text: str, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(text)))
        until = data.draw(st.integers(at, min(len(text), at + 12)))
        text = text[:at] + data.draw(st.sampled_from(SCRAPS)) + text[until:]
    try:
        planned(text)
    except LoadFailed as error:
        assert error.message.startswith("pipeline.toml")
