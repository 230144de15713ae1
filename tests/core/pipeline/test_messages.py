"""What a stage says of itself: nothing is lost, nothing is stale, and times are those that passed."""

from ltx2_core.pipeline.messages import Messages, StepTimer, duration, reading, working


def test_sentences_stay_in_order_and_the_status_comes_last():
    shown: list[str] = []
    messages = Messages(shown.append)
    messages.set_status("reading Gemma")
    messages.add("first")
    messages.set_status("decoding")
    messages.add("second")
    messages.add("first")
    messages.set_status("")
    messages.set_status("")
    assert shown == [
        "reading Gemma",
        "first\nreading Gemma",
        "first\ndecoding",
        "first\nsecond\ndecoding",
        "first\nsecond",
    ]


def test_the_time_of_a_step_is_the_mean_of_what_was_counted():
    moments = iter([100.0, 102.0, 103.0, 106.0])
    timer = StepTimer(lambda: next(moments))
    said = [timer.count(done, 12).split(" \N{MIDDLE DOT} ") for done in (10, 11, 12)]
    assert said == [["2 s per step", "4 s left"], ["1.5 s per step", "2 s left"], ["2 s per step"]]


def test_a_duration_is_told_as_one_would():
    assert [duration(each) for each in (0.4, 24, 99, 100, 3599, 4800)] == [
        "0 s",
        "24 s",
        "99 s",
        "2 min",
        "1 h 0 min",
        "1 h 20 min",
    ]


def test_what_is_done_is_told_with_how_far_it_is():
    assert working("frames", 3, 8) == "decoding the picture, tile 3 of 8"
    assert working("prompt", 1, 2) == "encoding the prompt"
    assert working("upscaling space by 2") == "upscaling space by 2"
    assert reading("text_encoder") == "reading Gemma" and reading("video_decoder") == "reading the video decoder"
