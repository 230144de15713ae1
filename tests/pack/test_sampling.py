"""Guidance, recipes, samplers and parts of a schedule, on the graph."""

import pytest
from pack.clip import pictures
from pack.workflow import add, change, node, with_pictures

pytestmark = pytest.mark.comfy

SAMPLERS = [
    "euler",
    "euler_ancestral",
    "euler_cfg_pp",
    "euler_ancestral_cfg_pp",
    "gradient_estimation",
    "heun",
    "dpmpp_2m",
    "res_2s",
]


@pytest.fixture
def prompt(prompt):
    """The same, small."""
    return change(prompt, LTX2AVEmptyLatent={"width": 64, "height": 64, "frames": 9})


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m"])
def test_two_samplers_in_a_row_give_what_one_gives(server, client, prompt, sampler):
    first, decode = node(prompt, "LTX2AVSample"), node(prompt, "LTX2AVDecode")
    with_pictures(change(prompt, LTX2AVSample={"seed": 21, "sampler": sampler}, LTX2AVSchedule={"steps": 4}))
    whole = client.run(prompt)

    second = prompt[first]["inputs"] | {"start_step": 2, "add_noise": False, "latent": [first, 0]}
    prompt[first]["inputs"]["end_step"] = 2
    prompt[decode]["inputs"]["latent"] = ["second", 0]
    split = client.run(add(prompt, second=("LTX2AVSample", second)))
    assert "second" in split.executed
    assert (pictures(server, split) == pictures(server, whole)).all()


def test_every_sampler_runs_and_they_differ(server, client, prompt):
    with_pictures(change(prompt, LTX2AVSample={"seed": 22}, LTX2AVSchedule={"steps": 3}))
    made = [pictures(server, client.run(change(prompt, LTX2AVSample={"sampler": name}))) for name in SAMPLERS]
    assert all((one != other).any() for i, one in enumerate(made) for other in made[:i])


def test_eta_says_how_much_of_the_noise_is_new(server, client, prompt):
    """At 0 an ancestral step is a plain one."""
    with_pictures(change(prompt, LTX2AVSample={"seed": 22}, LTX2AVSchedule={"steps": 3}))
    made = [
        pictures(server, client.run(change(prompt, LTX2AVSample={"sampler": sampler, "eta": eta}))).astype(int)
        for sampler, eta in (
            ("euler", 1.0),
            ("euler_ancestral", 0.0),
            ("euler_ancestral", 0.5),
            ("euler_ancestral", -1.0),
        )
    ]
    plain, without, half, official = made
    assert abs(plain - without).max() <= 1 and (half != official).any() and abs(half - plain).max() > 1


def test_guidance_takes_the_place_of_the_sliders(server, client, prompt):
    """Through the sliders, through one guidance node, and through two that divide the streams between them."""
    model = [node(prompt, "LTX2AVLoadModel"), 0]
    with_pictures(change(prompt, LTX2AVSample={"seed": 23, "text_scale": 2.0, "cross_modal_scale": 4.0}))
    by_sliders = pictures(server, client.run(prompt))

    scales = {"model": model, "text_scale": 2.0, "cross_modal_scale": 4.0, "stg_scale": 0.0, "rescale": 0.0}
    change(prompt, LTX2AVSample={"text_scale": 9.0, "cross_modal_scale": 9.0, "guidance": ["guidance", 0]})
    add(prompt, guidance=("LTX2AVGuidance", scales | {"stream": "both"}))
    assert (pictures(server, client.run(prompt)) == by_sliders).all()

    add(prompt, picture=("LTX2AVGuidance", scales | {"stream": "video"}))
    add(prompt, guidance=("LTX2AVGuidance", scales | {"stream": "audio", "guidance": ["picture", 0]}))
    assert (pictures(server, client.run(prompt)) == by_sliders).all()

    late = scales | {"stream": "both", "text_scale": 1.0, "up_to_sigma": 0.9, "guidance": ["picture", 0]}
    add(prompt, guidance=("LTX2AVGuidance", late))
    assert (pictures(server, client.run(prompt)) != by_sliders).any()


def test_a_recipe_says_what_it_chose(server, client, prompt):
    add(prompt, recipe=("LTX2AVRecipe", {"model": [node(prompt, "LTX2AVLoadModel"), 0], "steps": 2}))
    change(prompt, LTX2AVSample={"seed": 24, "sigmas": ["recipe", 0], "guidance": ["recipe", 1]})
    assert client.run(prompt).end == "execution_success"
    assert "LTX-2.0 miniature: ltx2, 2 steps" in server.log
    assert "picture: text 3, cross-modal 3" in server.log


def test_a_sampler_that_needs_the_negative_prompt_says_so(client, prompt):
    sampler = node(prompt, "LTX2AVSample")
    change(prompt, LTX2AVSample={"sampler": "euler_cfg_pp", "text_scale": 1.0, "stg_scale": 0.0})
    del prompt[sampler]["inputs"]["negative"]
    run = client.run(prompt)
    assert "The sampler euler_cfg_pp looks at the negative prompt, but there is no negative prompt" in run.error


def test_a_custom_schedule_and_its_mistakes(client, prompt):
    change(prompt, LTX2AVSample={"seed": 25}, LTX2AVSchedule={"schedule": "custom", "custom_sigmas": "1, 0.6, 0.2, 0"})
    run = client.run(prompt, preview="none")
    assert run.steps(node(prompt, "LTX2AVSample"))[-1] == 3
    change(prompt, LTX2AVSchedule={"custom_sigmas": "1, 0.6, 0.7, 0"})
    assert "after 0.6 comes 0.7" in client.complaint(prompt)
