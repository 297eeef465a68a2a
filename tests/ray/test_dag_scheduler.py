"""The scheduler over random DAGs that share a budget, finishing in random orders; no Ray runs.

The file is long because each rule of admission is a case.
"""

import threading
import time
from collections import Counter

import pytest
import ray
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.dag import MultiOutputNode

from zerrow_ray.dag.budget import Budget
from zerrow_ray.dag.charges import Charges
from zerrow_ray.dag.costs import CostModel
from zerrow_ray.dag.disk import Disk, Speed
from zerrow_ray.dag.estimates import Estimates, Function, Need
from zerrow_ray.dag.eviction import choose
from zerrow_ray.dag.forecast import forecast
from zerrow_ray.dag.measurement import Measurement
from zerrow_ray.dag.plan import Plan
from zerrow_ray.dag.scheduler import Scheduler
from zerrow_store.policy import Adaptive, Candidate, Keep, Lru, Policy, Rollback, Swap


@ray.remote
def work(*inputs):
    return inputs


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    nodes = []
    for _ in range(draw(st.integers(1, 8))):
        inputs = draw(st.lists(st.sampled_from(nodes), max_size=3)) if nodes else []
        nodes.append(work.bind(*inputs))
    wanted = draw(st.lists(st.sampled_from(nodes), min_size=1, max_size=3))
    return Plan(MultiOutputNode(wanted))


def fresh(new: int, peak: int | None = None) -> Need:
    """What a step needs whose result refers to nothing of others'."""
    return Need(new, new if peak is None else peak, new)


class Simulation:
    """One DAG: what runs, what has run, and whose results are there."""

    def __init__(
        self,
        plan: Plan,
        budget: Budget,
        needs: dict[str, Need],
        policy: Policy | None = None,
        seconds: dict[str, float] | None = None,
    ) -> None:
        self.plan = plan
        self.needs = needs
        self.account = budget.open()
        self.scheduler = Scheduler(
            plan,
            self.account,
            policy or Keep(),
            2,
            need=lambda step: needs[step.key],
            peak=lambda: forecast(plan, lambda step, _: needs[step.key]),
            seconds=lambda step: seconds.get(step.key) if seconds else 0.0,
            disk=Disk(lambda: Speed(1 / 4, 0.0, 1 / 4)),
        )
        self.running: list[str] = []
        self.finished: set[str] = set()
        self.present: set[str] = set()
        self.spilled: set[str] = set()
        self.runs = Counter()
        self.rolled_back = Counter()

    def start(self) -> bool:
        step, evicted = self.scheduler.start()
        for candidate, way in evicted:
            key = candidate.key
            assert key in self.present - self.spilled
            assert not any(key in self.plan.steps[running].inputs for running in self.running)
            if way == "spill":
                self.spilled.add(key)
                continue
            assert key not in self.plan.results
            self.present.remove(key)
            self.rolled_back[key] += 1
        if step is None:
            return False
        assert step.key not in self.present
        assert step.key not in self.running
        assert set(step.inputs) <= self.present
        self.running.append(step.key)
        self.runs[step.key] += 1
        return True

    def finish(self, key: str) -> None:
        self.running.remove(key)
        self.finished.add(key)
        self.present.add(key)
        released = set(self.scheduler.finish(key, self.needs[key].new, self.needs[key].result))
        assert released <= self.present - self.plan.results
        self.present -= released
        self.spilled -= released
        for step in self.plan.steps.values():
            if step.key not in self.finished:
                assert not released & set(step.inputs), "a result goes before its last consumer"


@settings(max_examples=150, deadline=None)
@given(data=st.data(), total=st.integers(0, 60))
def test_all_steps_run_within_the_budget(data: st.DataObject, total: int) -> None:
    budget = Budget(lambda *_: total)
    simulations = []
    for plan in data.draw(st.lists(plans(), min_size=1, max_size=3)):
        needs = {}
        for key in plan.steps:
            new = data.draw(st.integers(0, 20))
            more, shared = data.draw(st.tuples(st.integers(0, 10), st.integers(0, 20)))
            needs[key] = Need(new, new + more, new + shared)
        policy = data.draw(st.sampled_from([Keep, Swap, Rollback, Adaptive, Lru]))()
        seconds = {key: data.draw(st.sampled_from([None, 0.1, 9.0])) for key in plan.steps}
        simulations.append(Simulation(plan, budget, needs, policy, seconds))
    largest = max(need.peak for s in simulations for need in s.needs.values())
    active = list(simulations)
    while active:
        started = True
        while started:
            started = False
            for simulation in active:
                started = simulation.start() or started
            # Exceeded by one step that had to start, beside results that are still needed.
            kept = sum(s.account.freed(key, []) for s in simulations for key in s.present)
            assert budget.held() <= max(total, kept + largest)
        running = [(s, key) for s in active for key in s.running]
        assert running, "no step runs and none can start"
        simulation, key = data.draw(st.sampled_from(running))
        simulation.finish(key)
        if simulation.scheduler.done:
            assert simulation.finished == set(simulation.plan.steps)
            assert simulation.present == simulation.plan.results
            for key, runs in simulation.runs.items():
                assert runs <= 1 + sum(simulation.rolled_back.values())
                assert simulation.rolled_back[key] <= 3
            simulation.account.close()
            active.remove(simulation)
            simulations.remove(simulation)
    assert budget.held() == 0


@settings(deadline=None)
@given(plan=plans())
def test_without_memory_steps_run_one_by_one(plan: Plan) -> None:
    needs = dict.fromkeys(plan.steps, fresh(1))
    simulation = Simulation(plan, Budget(lambda *_: 0), needs)
    while not simulation.scheduler.done:
        assert simulation.start()
        assert not simulation.start()
        simulation.finish(simulation.running[0])


def test_with_memory_branches_run_side_by_side() -> None:
    plan = Plan(work.bind(*(work.bind() for _ in range(5))))
    simulation = Simulation(plan, Budget(lambda *_: 100), dict.fromkeys(plan.steps, fresh(1)))
    while simulation.start():
        pass
    assert len(simulation.running) == 5


def test_of_unknown_functions_no_more_steps_start_than_can_run() -> None:
    plan = Plan(work.bind(*(work.bind() for _ in range(5))))
    guess = Need(0, 0, 0, is_guess=True)
    simulation = Simulation(plan, Budget(lambda *_: 100), dict.fromkeys(plan.steps, guess))
    while simulation.start():
        pass
    assert len(simulation.running) == 2
    simulation.needs.update(dict.fromkeys(plan.steps, fresh(1)))
    while simulation.start():
        pass
    assert len(simulation.running) == 5


def test_short_of_memory_a_branch_ends_before_another_begins() -> None:
    branches = [work.bind(work.bind(work.bind())) for _ in range(3)]
    plan = Plan(MultiOutputNode(branches))
    simulation = Simulation(plan, Budget(lambda *_: 2), dict.fromkeys(plan.steps, fresh(1, 2)))
    order = []
    while not simulation.scheduler.done:
        assert simulation.start()
        assert not simulation.start()
        order.append(plan.steps[simulation.running[0]].order)
        simulation.finish(simulation.running[0])
    assert order == sorted(order)


def test_what_holds_most_on_its_way_is_made_first() -> None:
    node = work.bind()
    for _ in range(10):
        node = work.bind(work.bind(), node)
    plan = Plan(node)
    # However many are read one after the other, one is held at a time.
    assert forecast(plan, lambda step, _: fresh(0 if step.inputs else 10)) == 10 + 10


def test_what_a_step_that_runs_soon_reads_makes_no_room_for_a_later_one() -> None:
    first, second, third = (work.options(name=str(n)).bind() for n in (1, 2, 3))
    plan = Plan(work.bind(third, work.bind(second, work.bind(first))))

    def running_after_second(seconds_of_third: float) -> list[str]:
        needs = {key: fresh(10) for key in plan.steps}
        by_name = {step.name: key for key, step in plan.steps.items()}
        needs[by_name["3"]] = Need(10, 10, 10, seconds_of_third)
        again = dict.fromkeys(plan.steps, 1.0)
        simulation = Simulation(plan, Budget(lambda *_: 20), needs, Rollback(), again)
        assert simulation.start()
        assert simulation.start()
        simulation.finish(by_name["2"])
        simulation.start()
        return [plan.steps[key].name for key in simulation.running]

    assert running_after_second(2.0) == ["1"], "it waits for as long as it takes to make 2 again"
    assert running_after_second(2.1) == ["1", "3"]


def test_a_long_way_can_be_rolled_back() -> None:
    node = work.bind()
    for _ in range(1100):  # more than functions may call themselves
        node = work.bind(node)
    long_way, between = node, work.options(name="between").bind()
    last = work.bind(long_way, work.bind(between, work.bind(long_way)))
    plan = Plan(last)
    needs = dict.fromkeys(plan.steps, fresh(1))
    needs[next(key for key, step in plan.steps.items() if step.name == "between")] = fresh(3)
    again = dict.fromkeys(plan.steps, 1.0)
    simulation = Simulation(plan, Budget(lambda *_: 3), needs, Rollback(), again)
    while not simulation.scheduler.done:
        while simulation.start():
            pass
        simulation.finish(simulation.running[0])
    assert sum(simulation.runs.values()) > 2200


def test_a_greedy_dag_leaves_a_share_to_one_that_waits() -> None:
    budget = Budget(lambda *_: 12)
    wide = Plan(work.bind(*(work.bind() for _ in range(12))))
    greedy = Simulation(wide, budget, dict.fromkeys(wide.steps, fresh(1)))
    for _ in range(9):
        assert greedy.start()
    other_plan = Plan(MultiOutputNode([work.bind(), work.bind(work.bind())]))
    small, *large = other_plan.steps
    needs = {small: fresh(1), **dict.fromkeys(large, fresh(4))}
    other = Simulation(other_plan, budget, needs)
    assert other.start()
    assert other.running == [small]
    assert not other.start(), "4 do not fit beside 10 of 12"
    assert not greedy.start(), "1 fits, but would be more than a half while another one waits"
    other.finish(small)
    greedy.finish(greedy.running[0])
    assert not other.start(), "others run, so it waits"
    for key in list(greedy.running):
        greedy.finish(key)
    assert other.start(), "nothing runs any more"


@given(runs=st.lists(st.tuples(st.integers(1, 1000), st.floats(0.1, 4)), min_size=8, max_size=20))
def test_estimates_follow_what_functions_do(runs: list[tuple[int, float]]) -> None:
    estimates, function = Estimates(), Function("f")
    for given_bytes, ratio in runs:
        new = int(given_bytes * ratio)
        estimates.learn(function, given_bytes, Need(new, 2 * new, new + given_bytes), 0.1)
    ratios = [int(given_bytes * ratio) / given_bytes for given_bytes, ratio in runs]
    need = estimates.need(function, 1000, None)
    assert need is not None
    assert int(1000 * min(ratios)) - 1 <= need.new <= 1000 * max(ratios) + 1
    assert need.peak >= need.new
    assert abs(need.result - need.new - 1000) <= 1
    declared = estimates.need(function, 1000, 5_000_000)
    assert declared is not None
    assert declared.peak == 5_000_000


def test_what_reads_files_is_estimated_by_its_arguments() -> None:
    estimates = Estimates()
    assert estimates.need(Function("read", "small"), 0, None) is None
    for _ in range(4):
        estimates.learn(Function("read", "small"), 0, fresh(10), 0.1)
        estimates.learn(Function("read", "large"), 0, fresh(1000), 2.0)
    assert estimates.need(Function("read", "small"), 0, None) == Need(10, 10, 10, 0.1)
    assert estimates.need(Function("read", "large"), 0, None) == Need(1000, 1000, 1000, 2.0)
    other = estimates.need(Function("read", "another"), 0, None)
    assert other is not None
    assert 10 < other.new < 1000
    assert estimates.seconds(Function("read", "small")) == pytest.approx(0.1)
    assert estimates.seconds(Function("read")) is None
    # One slow run counts for half, but for the first one, which counts until there is another.
    estimates.learn(Function("read", "small"), 0, fresh(10), 0.3)
    assert estimates.seconds(Function("read", "small")) == pytest.approx(0.2)
    estimates.learn(Function("read", "new"), 0, fresh(10), 5.0)
    assert estimates.seconds(Function("read", "new")) == pytest.approx(5.0)
    estimates.learn(Function("read", "new"), 0, fresh(10), 0.1)
    assert estimates.seconds(Function("read", "new")) == pytest.approx(0.1)


def test_steps_without_input_are_told_apart_by_plain_arguments() -> None:
    arguments = [
        next(iter(Plan(work.bind(*args)).steps.values())).arguments
        for args in [("a", [1]), ("a", [1]), ("a", [2]), ("a", [object()])]
    ]
    assert arguments[0] == arguments[1] != arguments[2]
    assert arguments[3] == ""


def test_what_a_step_took_stays_known_while_it_is_made_again() -> None:
    plan = Plan(work.bind(work.bind()))
    costs = CostModel(plan, Estimates())
    step = plan.steps[plan.final.get_stable_uuid()]
    assert costs.seconds_again(step) is None
    costs.learn(step, Measurement(0.0, 2.5, 10, 10, 10, 10, 1, "", []))
    assert costs.seconds_again(step) == 2.5
    assert costs.result_bytes(step.key) == 10


def test_a_result_holds_what_it_refers_to_of_those_let_go() -> None:
    charges = Charges()
    charges.charge("table", 100, 100)
    charges.charge("one more column", 10, 110)
    charges.charge("three columns", 0, 30)
    assert charges.freed("table", ["one more column"]) == 0
    assert charges.freed("table", ["three columns"]) == 70
    charges.release("table", ["one more column", "three columns"])
    assert charges.total == charges.of("one more column") == 110
    charges.release("one more column", ["three columns"])
    assert charges.total == charges.of("three columns") == 30
    charges.release("three columns", [])
    assert charges.total == 0


@given(plan=plans(), data=st.data())
def test_one_step_after_the_other_a_plan_holds_what_was_forecast(
    plan: Plan, data: st.DataObject
) -> None:
    sizes = st.integers(0, 20)
    needs = {}
    for key in plan.steps:
        new, more, shared = data.draw(st.tuples(sizes, sizes, sizes))
        needs[key] = Need(new, new + more, new + shared)
    expected = forecast(plan, lambda step, _: needs[step.key])
    simulation = Simulation(plan, Budget(lambda *_: 0), needs)
    most = 0
    for key in plan.steps:  # in the order of the forecast
        step = plan.steps[key]
        assert simulation.account.begin(lambda: 0, 1)
        before = simulation.account.held
        most = max(most, before + needs[key].peak)
        assert simulation.account.take(key, needs[key].peak, anyway=True)
        simulation.scheduler._begin(step)
        simulation.running.append(key)
        simulation.finish(key)
    assert most == expected


def test_dags_that_do_not_fit_at_once_begin_in_order() -> None:
    def chain() -> Plan:
        return Plan(work.bind(work.bind(work.bind())))

    # Each holds 20 at most, of 45: two fit, and a share is 9.
    budget = Budget(lambda *_: 45)
    dags = [
        Simulation(p, budget, dict.fromkeys(p.steps, fresh(10))) for p in [chain() for _ in "12345"]
    ]
    small_plan = Plan(work.bind())
    small = Simulation(small_plan, budget, dict.fromkeys(small_plan.steps, fresh(3)))
    assert [each.start() for each in dags] == [True, True, False, False, False]
    assert small.start(), "it fits into a fair share"
    for ended in range(2):
        while not dags[ended].scheduler.done:
            dags[ended].finish(dags[ended].running[0])
            dags[ended].start()
        assert [each.start() for each in dags[3:]] == [False, False], "the third is before them"
        dags[ended].account.close()
        if ended == 0:
            assert not dags[4].start()
            assert dags[2].start()
            assert not dags[3].start()
        else:
            assert dags[3].start()
            assert not dags[4].start()


def test_dags_at_once_do_not_evict_each_other() -> None:
    # Each holds 20 at most, of 45: four beginnings would fill it.
    budget = Budget(lambda *_: 45)
    plans = [Plan(work.bind(work.bind(work.bind()))) for _ in range(10)]
    dags = [Simulation(p, budget, dict.fromkeys(p.steps, fresh(10)), Swap()) for p in plans]
    while dags:
        while any(each.start() for each in dags):
            pass
        simulation = next(each for each in dags if each.running)
        simulation.finish(simulation.running[0])
        assert not simulation.spilled
        if simulation.scheduler.done:
            simulation.account.close()
            dags.remove(simulation)


def test_no_room_is_made_for_steps_that_no_processor_is_left_for() -> None:
    budget = Budget(lambda *_: 20)
    busy_plan = Plan(MultiOutputNode([work.bind(), work.bind()]))
    busy = Simulation(busy_plan, budget, dict.fromkeys(busy_plan.steps, fresh(1)))
    plan = Plan(work.bind(work.bind(), work.bind()))
    waiting = Simulation(plan, budget, dict.fromkeys(plan.steps, fresh(18)), Swap())
    assert waiting.start()
    waiting.finish(waiting.running[0])
    assert busy.start()
    assert busy.start()
    assert not waiting.start()
    assert not waiting.spilled
    busy.finish(busy.running[0])
    assert waiting.start()
    assert waiting.spilled


def test_of_unknown_dags_as_many_begin_as_steps_can_run() -> None:
    budget = Budget(lambda *_: 90)
    accounts = [budget.open() for _ in range(4)]
    assert [each.begin(lambda: None, 3) for each in accounts] == [True, True, True, False]
    accounts[1].close()
    assert accounts[3].begin(lambda: None, 3)


def test_whoever_waits_for_room_is_told() -> None:
    budget = Budget(lambda *_: 10)
    account = budget.open()
    account.begin(lambda: 0, 1)
    account.take("step", 5)
    timer = threading.Timer(0.1, account.fail, ["step"])
    timer.start()
    start = time.monotonic()
    account.wait(60)
    assert time.monotonic() - start < 30
    timer.join()


class ReadTwice:
    """Results of size 10 are read one after the other, and once more, with room for `fit` of them.
    Each takes so many seconds; the disk takes 2.5 to write one, and 2.5 to read one. Runs to the
    end; `at_once` are the names of the steps that ran side by side.
    """

    def __init__(self, policy: Policy, seconds: float, *, sources: int = 3, fit: int = 2) -> None:
        made = [work.options(name="source").bind() for _ in range(sources)]
        node = work.bind()
        for source in (*made, *made):
            node = work.bind(source, node)
        plan = Plan(node)
        needs = {
            key: Need(0, 0, 0) if step.inputs else Need(10, 10, 10, seconds)
            for key, step in plan.steps.items()
        }
        again = dict.fromkeys(plan.steps, seconds)
        simulation = Simulation(plan, Budget(lambda *_: 10 * fit), needs, policy, again)
        self.at_once: list[list[str]] = []
        while not simulation.scheduler.done:
            while simulation.start():
                pass
            self.at_once.append([plan.steps[key].name for key in simulation.running])
            simulation.finish(simulation.running[0])
        assert simulation.present == plan.results
        assert all(plan.steps[key].name.startswith("source") for key in simulation.rolled_back)
        self.rollbacks = sum(simulation.rolled_back.values())
        self.steps = len(plan.steps)
        self.runs = simulation.runs


def test_rollback_drops_what_is_in_the_way_and_makes_it_again() -> None:
    run = ReadTwice(Rollback(), 100.0)
    assert run.rollbacks > 0
    assert sum(run.runs.values()) == run.steps + run.rollbacks


def test_what_is_read_last_goes_first() -> None:
    # With room for all but one, a single one has to go and come back: in a cycle, the longest idle
    # would always be the next one that is read.
    assert ReadTwice(Rollback(), 1.0, sources=8, fit=7).rollbacks == 1


def test_what_was_rolled_back_is_made_again_ahead_where_there_is_room() -> None:
    run = ReadTwice(Rollback(), 1.0, sources=6, fit=3)
    second_reading = run.at_once[len(run.at_once) // 2 :]
    assert any(
        any(name.startswith("source") for name in names)
        and any(name.startswith("work") for name in names)
        for names in second_reading
    )


def test_what_is_read_later_makes_room_for_what_is_made_again_side_by_side() -> None:
    run = ReadTwice(Rollback(), 1.0, sources=6, fit=2)
    first_reading = len(run.at_once) // 2
    assert any(
        all(name.startswith("source") for name in names)
        for names in run.at_once[first_reading:]
        if len(names) == 2
    )


def test_swap_runs_everything_once() -> None:
    assert set(ReadTwice(Swap(), 0.0).runs.values()) == {1}


def test_what_is_spilled_makes_room_for_steps_side_by_side() -> None:
    plan = Plan(work.bind(*(work.bind() for _ in range(6))))
    needs = dict.fromkeys(plan.steps, fresh(10))
    simulation = Simulation(plan, Budget(lambda *_: 20), needs, Swap())
    most = 0
    while not simulation.scheduler.done:
        while simulation.start():
            pass
        most = max(most, len(simulation.running))
        assert simulation.account.held <= 20 + 10
        simulation.finish(simulation.running[0])
    assert most == 2
    assert len(simulation.spilled) == 0
    assert set(simulation.runs.values()) == {1}


def test_adaptive_compares_running_again_with_the_disk() -> None:
    assert ReadTwice(Adaptive(), 2.4).rollbacks > 0
    assert ReadTwice(Adaptive(), 100.0).rollbacks == 0


def test_nothing_is_rolled_back_where_nothing_is_evicted() -> None:
    assert set(ReadTwice(Keep(), 0.0).runs.values()) == {1}


def test_the_cheapest_goes_first_and_no_more_than_needed() -> None:
    candidates = [
        Candidate("slow", 10, {"rollback": 9.0, "spill": 5.0}, 0.0),
        Candidate("quick", 10, {"rollback": 1.0, "spill": 5.0}, 1.0),
        Candidate("big", 90, {"rollback": 3.0, "spill": 45.0}, 2.0),
    ]

    def chosen(policy: Policy, excess: int) -> list[tuple[object, str]]:
        return [(c.key, way) for c, way in choose(policy, candidates, excess)]

    assert chosen(Rollback(), 95) == [("big", "rollback"), ("quick", "rollback")]
    assert chosen(Rollback(), 0) == []
    in_all = [("big", "rollback"), ("quick", "rollback"), ("slow", "spill")]
    assert chosen(Adaptive(), 1000) == in_all
    assert chosen(Lru(), 1000) == [("slow", "spill"), ("quick", "rollback"), ("big", "rollback")]
    assert chosen(Swap(), 15) == [("slow", "spill"), ("quick", "spill")]
    assert chosen(Keep(), 1000) == []


def test_what_is_lost_too_often_is_given_up():
    source = work.bind()
    plan = Plan(work.bind(source))
    first, second = sorted(plan.steps, key=lambda key: plan.steps[key].order)
    needs = dict.fromkeys(plan.steps, fresh(1))
    scheduler = Simulation(plan, Budget(lambda *_: 2), needs, seconds={first: 0.0}).scheduler

    def started() -> str:
        step, _ = scheduler.start()
        assert step is not None
        return step.key

    for _ in range(3):
        assert started() == first
        assert scheduler.finish(first, 1, 1) == []
        assert started() == second
        assert scheduler.retry(second, [first])
    assert started() == first
    scheduler.finish(first, 1, 1)
    assert started() == second
    assert not scheduler.retry(second, [first])
    assert not scheduler.retry(first, [second])  # it must not run twice


@given(plans(), st.data())
def test_a_dag_advances_whatever_is_lost(plan: Plan, data: st.DataObject):
    scheduler = Simulation(
        plan,
        Budget(lambda *_: 4),
        dict.fromkeys(plan.steps, fresh(1)),
        seconds=dict.fromkeys(plan.steps, 1.0),
    ).scheduler
    losses = 0
    while not scheduler.done:
        step, _ = scheduler.start()
        assert step is not None
        lost = [key for key in step.inputs if losses < 10 and data.draw(st.booleans())]
        if lost and scheduler.retry(step.key, lost):
            losses += 1
        else:
            scheduler.finish(step.key, 1, 1)


def test_drivers_have_equal_parts():
    drivers = 1
    said = []
    measured = []

    def measure(sharing: int, held: int) -> int:
        measured.append((sharing, held))
        return 100 // sharing

    budget = Budget(measure, drivers=lambda: drivers, announce=said.append)
    account = budget.open()
    assert account.begin(lambda: 90, 2)
    assert account.take("running", 30)
    assert account.take("done", 60)
    account.keep("done", 40, 40)
    drivers = 2
    assert account.excess(10) <= 0  # the others are counted every second
    budget._counted = 0.0
    assert not account.take("more", 10)
    assert account.excess(10) == 30
    account.close()
    assert measured == [(1, 0), (2, 40)]
    assert said == [True, False]


def test_a_disk_that_has_to_write_costs_more_the_more_there_is() -> None:
    now = 0.0
    disk = Disk(lambda: Speed(0.2, 0.03, 0.07), clock=lambda: now)
    assert disk.seconds(10) == pytest.approx(1.0), "it is written while others work"
    disk.take(10)
    disk.take(10)
    assert disk.seconds(10) == pytest.approx(4.0 + 1.0)
    now = 3.0
    assert disk.seconds(10) == pytest.approx(1.0 + 1.0)
    now = 100.0
    assert disk.seconds(10) == pytest.approx(1.0)
