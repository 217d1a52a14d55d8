import pytest

from kernel_common.traces import trace_id

_TRACE, _SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize("header", [f"00-{_TRACE}-{_SPAN}-01", f"01-{_TRACE}-{_SPAN}-00-more"])
def test_the_trace_is_read(header: str) -> None:
    assert trace_id(header) == _TRACE


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "x",
        f"ff-{_TRACE}-{_SPAN}-01",
        f"00-{'0' * 32}-{_SPAN}-01",
        f"00-{_TRACE}-{'0' * 16}-01",
        f"00-{_TRACE.upper()}-{_SPAN}-01",
        f"00-{_TRACE}-{_SPAN}-01\n",
    ],
)
def test_what_is_no_trace_is_none(header: str | None) -> None:
    assert trace_id(header) == ""
