"""Whether a canary may go on: the table of signals, and what is promised of every decision by it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.rollout.decision import ALL, BY_NAME, NEW, SIGNALS, STABLE, Action, Decision, Reading, decide
from tests.non_regression.documents import guide, quoted, rows

WELL = {"share": 0.0, "ms": 10.0, "count": 0.0}
ROLLING_BACK = [signal for signal in SIGNALS if signal.beyond == "roll back"]
WARNING = [signal for signal in SIGNALS if signal.beyond == "warn"]
AT_ONCE = [signal for signal in SIGNALS if signal.beyond == "roll back at once"]
named = {"ids": lambda signal: signal.name}


def well() -> dict:
    """An evaluation in which everything is well, with plenty of everything."""
    return {
        signal.name: {
            whose: Reading(1.0 if signal.is_floor else WELL[signal.unit], 10_000)
            for whose in ((NEW, STABLE) if signal.scope == "variant" else (ALL,))
        }
        for signal in SIGNALS
    }


def with_reading(name: str, value: float | None, n: float = 10_000, whose: str | None = None) -> dict:
    whose = whose or (NEW if BY_NAME[name].scope == "variant" else ALL)
    evaluation = well()
    evaluation[name] = {**evaluation[name], whose: Reading(value, n)}
    return evaluation


def beyond(signal, by: float = 1.01) -> float:
    return 1 - (1 - signal.limit) * by if signal.is_floor else signal.limit * by


def between_watch_and_limit(signal) -> float:
    return (signal.watch + signal.limit) / 2


def test_where_everything_is_well_it_goes_on():
    assert decide([well(), well()]) == Decision(Action.OK)


@pytest.mark.parametrize("signal", ROLLING_BACK, **named)
def test_beyond_the_limit_in_two_evaluations_it_rolls_back_and_in_one_it_watches(signal):
    bad = with_reading(signal.name, beyond(signal))
    assert decide([bad, bad]).action == Action.ROLL_BACK
    assert signal.name in decide([bad, bad]).reasons[0]
    assert decide([well(), bad]).action == Action.WATCH
    assert decide([bad, well()]).action == Action.OK


@pytest.mark.parametrize("signal", ROLLING_BACK, **named)
def test_at_the_limit_itself_it_does_not_roll_back(signal):
    at = with_reading(signal.name, signal.limit)
    assert decide([at, at]).action == Action.WATCH


@pytest.mark.parametrize("signal", [*ROLLING_BACK, *WARNING], **named)
def test_between_watch_and_limit_it_watches_and_says_why(signal):
    near = with_reading(signal.name, between_watch_and_limit(signal))
    decision = decide([near, near])
    assert (decision.action, len(decision.reasons)) == (Action.WATCH, 1)
    assert signal.name in decision.reasons[0]


@pytest.mark.parametrize("signal", WARNING, **named)
def test_a_warning_never_rolls_back(signal):
    bad = with_reading(signal.name, beyond(signal, 100))
    assert decide([bad, bad]).action == Action.WATCH


@pytest.mark.parametrize("signal", AT_ONCE, **named)
@given(count=st.integers(1, 10**6), n=st.integers(0, 10))
def test_a_denial_or_contradiction_rolls_back_at_once_in_whichever_evaluation(signal, count, n):
    bad = with_reading(signal.name, count, n)
    for evaluations in ([bad], [well(), bad], [bad, well()], [{}, bad]):
        decision = decide(evaluations)
        assert decision.action == Action.ROLL_BACK and decision.is_at_once


@pytest.mark.parametrize("signal", [each for each in SIGNALS if each.scope == "variant"], **named)
def test_a_fault_of_the_stable_variant_alone_is_watched_and_not_the_canarys(signal):
    bad = with_reading(signal.name, beyond(signal), whose=STABLE)
    decision = decide([bad, bad])
    assert decision.action == Action.WATCH and STABLE in decision.reasons[0]


@pytest.mark.parametrize("signal", [each for each in ROLLING_BACK if each.scope == "variant"], **named)
def test_where_both_variants_degrade_it_rolls_back_and_says_that_both_did(signal):
    bad = with_reading(signal.name, beyond(signal))
    bad[signal.name][STABLE] = Reading(beyond(signal, 2), 10_000)
    decision = decide([bad, bad])
    assert decision.action == Action.ROLL_BACK and decision.both
    assert "both variants degrade" in decision.reasons[0]


@pytest.mark.parametrize("signal", [each for each in SIGNALS if each.n_min > 1], **named)
def test_what_is_short_holds_the_stage_or_is_passed_over_as_the_table_says(signal):
    short = with_reading(signal.name, 1.0 if signal.is_floor else WELL[signal.unit], signal.n_min - 1)
    expected = Action.HOLD if signal.short == "hold" else Action.OK
    assert decide([short, well()]).action == decide([well(), short]).action == expected


def test_the_first_evaluation_of_a_run_holds_the_stage():
    assert decide([well()]).action == decide([]).action == Action.HOLD


def test_a_few_failures_of_few_requests_roll_nothing_back_and_many_do():
    two_of_five = with_reading("query_error_rate", 0.4, 5)
    assert decide([two_of_five, two_of_five]).action == Action.HOLD
    all_of_five = with_reading("query_error_rate", 1.0, 5)
    assert decide([all_of_five, all_of_five]).action == Action.ROLL_BACK


def test_what_is_short_is_judged_by_the_whole_stage_once_that_has_twice_the_minimum():
    short = with_reading("query_error_rate", 0.0, 299)
    for n, value, expected in (
        (599, 0.0, Action.HOLD), (600, 0.0, Action.OK), (600, 0.006, Action.WATCH), (600, 0.011, Action.ROLL_BACK),
    ):  # fmt: skip
        assert decide([short, short], with_reading("query_error_rate", value, n)).action == expected
    enough = with_reading("query_error_rate", 0.0, 300)
    assert decide([enough, enough], with_reading("query_error_rate", 0.5, 600)).action == Action.OK


def test_streams_too_few_for_a_window_roll_back_by_the_whole_stage():
    short = with_reading("stream_success", 1.0, 10)
    assert decide([short, short], with_reading("stream_success", 0.99, 800)).action == Action.ROLL_BACK


readings = st.builds(Reading, st.one_of(st.none(), st.floats(0, 1)), st.integers(0, 2000))


def scaled(signal, reading: Reading) -> Reading:
    """A reading drawn from 0 to 1, as one of this signal: about its limit."""
    if reading.value is None or signal.unit == "share":
        return reading
    return Reading(reading.value * 3 * (signal.limit or 1), reading.n)


def evaluation_of(drawn: dict) -> dict:
    return {
        signal.name: {whose: scaled(signal, drawn[signal.name, whose]) for whose in (NEW, STABLE, ALL)}
        for signal in SIGNALS
    }


drawn = st.fixed_dictionaries({(signal.name, whose): readings for signal in SIGNALS for whose in (NEW, STABLE, ALL)})


@settings(max_examples=50)
@given(earlier=drawn, latest=drawn, signal=st.sampled_from(SIGNALS), by=st.floats(0, 1))
def test_worse_is_never_less_severe(earlier, latest, signal, by):
    before, now = evaluation_of(earlier), evaluation_of(latest)
    whose = NEW if signal.scope == "variant" else ALL
    value, n = now[signal.name][whose]
    if value is None:
        return
    room = value if signal.unit == "share" and signal.is_floor else 1 - value if signal.unit == "share" else 1000
    worse = value - by * room if signal.is_floor else value + by * room
    worsened = {**now, signal.name: {**now[signal.name], whose: Reading(worse, n)}}
    assert decide([before, worsened]).action >= decide([before, now]).action
    assert decide([worsened, before]).action >= decide([now, before]).action


@settings(max_examples=50)
@given(earlier=drawn, latest=drawn, factor=st.integers(1, 1000))
def test_how_many_there_are_beyond_the_minimum_changes_nothing(earlier, latest, factor):
    def many(evaluation: dict, times: int) -> dict:
        return {
            name: {whose: Reading(value, (BY_NAME[name].n_min + n) * times) for whose, (value, n) in of.items()}
            for name, of in evaluation.items()
        }

    before, now = evaluation_of(earlier), evaluation_of(latest)
    few, more = ([many(before, times), many(now, times)] for times in (1, factor))
    assert decide(few).action == decide(more).action


def test_the_guide_shows_the_table_by_which_it_is_decided():
    text = guide("canary").partition("## What is judged")[2].partition("\n## ")[0]
    shown = {quoted(row[0])[0]: row[1:] for row in rows(text)}

    def said(signal, value: float | None) -> str:
        if value is None:
            return ""
        number = f"{100 * value:g} %" if signal.unit == "share" else f"{value:g}{' ms' if signal.unit == 'ms' else ''}"
        return f"{'below' if signal.is_floor else 'over'} {number}"

    assert shown == {
        signal.name: [
            signal.scope, said(signal, signal.watch), said(signal, signal.limit), signal.beyond,
            str(signal.n_min), f"{signal.window_seconds:g} s", signal.short,
        ]
        for signal in SIGNALS
    }  # fmt: skip
