"""The cost estimate."""

import pytest

from ec2_runner.stack.cost import HOST_TYPES, estimate
from pipeline.errors import UsageError


def test_at_rest_nothing_runs() -> None:
    rest = {kind: estimate(kind).at_rest for kind in HOST_TYPES}
    assert len(set(rest.values())) == 1
    assert 3 < rest["t3.medium"] < 10


def test_images_cost_the_host_while_it_works_and_waits() -> None:
    short, long = estimate("c7i.large", idle_minutes=10), estimate("c7i.large", idle_minutes=40)
    assert long.images - short.images == pytest.approx(0.5 * HOST_TYPES["c7i.large"].hourly)
    slow = estimate("c7i.large", idle_minutes=10, images_a_second=1)
    assert slow.images - short.images == pytest.approx(900 / 3600 * HOST_TYPES["c7i.large"].hourly)
    assert 0.01 < short.images < 0.2


def test_a_host_that_never_stops_costs_its_month() -> None:
    cost = estimate("c7i.large")
    assert cost.always_on - cost.at_rest == pytest.approx(730 * 0.08925)


@pytest.mark.parametrize(
    ("kind", "dollars"),
    [("t3.medium", 89), ("t3.large", 112), ("t4g.medium", 71), ("t4g.large", 90), ("m7i.large", 74)],
)
def test_a_t_type_that_never_stops_pays_for_what_is_beyond_its_baseline(kind: str, dollars: float) -> None:
    cost = estimate(kind)
    assert cost.always_on - cost.at_rest == pytest.approx(dollars, abs=0.5)
    text = "\n".join(cost.lines())
    assert ("unlimited" in text) == kind.startswith("t")
    if kind == "t3.medium":
        assert "its price includes 20% of 2 vCPUs" in text
        assert "the rest adds up to $58 a month" in text


def test_a_t_type_that_mostly_idles_uses_up_no_credits() -> None:
    short, long = estimate("t3.medium", idle_minutes=1), estimate("t3.medium", idle_minutes=31)
    surplus = (2 * 3.67 - 0.2 * 2 * 4.67) / 60 * 0.05  # vCPU hours that were not earned
    assert long.images - short.images == pytest.approx(0.5 * 0.0416 - surplus, abs=1e-4)


def test_every_t_type_has_a_baseline() -> None:
    assert {kind for kind, host in HOST_TYPES.items() if host.burst} == {
        kind for kind in HOST_TYPES if kind.startswith("t")
    }


def test_waiting_for_the_boot_costs_less_than_the_work() -> None:
    assert estimate("t3.medium").images == pytest.approx(0.044, abs=0.001)


def test_storage_follows_the_size_of_the_images() -> None:
    assert estimate("t3.medium", megabytes=10).storage == pytest.approx(10 * estimate("t3.medium").storage)


def test_an_unknown_type_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(UsageError, match=r"p5\.48xlarge is none of: t3\.medium"):
        estimate("p5.48xlarge")


def test_the_lines_say_what_the_figures_are() -> None:
    text = "\n".join(estimate("t3.medium").lines())
    assert "at rest: about $" in text
    assert "check them" in text


def test_several_hosts_that_are_never_idle_cost_their_number() -> None:
    one, four = estimate("t3.medium"), estimate("t3.medium", hosts=4)
    disk = 12 * 0.08  # of each stopped host that holds a slot
    assert four.at_rest == pytest.approx(one.at_rest + 3 * disk)
    assert four.always_on - four.at_rest == pytest.approx(4 * (one.always_on - one.at_rest))
    assert estimate("t3.medium", hosts=4, spot=True).at_rest == one.at_rest
    text = "\n".join(four.lines())
    assert f"4 hosts that are never idle: about ${four.always_on:.0f} a month" in text
    assert "adds up to $234 a month" in text


def test_the_prices_of_spot_are_said_to_be_others() -> None:
    assert "Spot Instances cost less, and their price changes" in "\n".join(
        estimate("t3.medium", spot=True).lines()
    )
    assert "Spot" not in "\n".join(estimate("t3.medium").lines())
