from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from kernel_common.pages import Cursor, Page

_CURSOR: TypeAdapter[UUID] = TypeAdapter(Cursor)


@given(st.uuids())
def test_a_cursor_is_the_id_that_it_was_made_of(last: UUID) -> None:
    written = _CURSOR.dump_python(last, mode="json")
    assert len(written) == 22
    assert _CURSOR.validate_python(written) == last


@given(st.one_of(st.text(max_size=40), st.binary(max_size=40), st.integers()))
def test_what_is_no_cursor_is_refused(text: object) -> None:
    try:
        assert isinstance(_CURSOR.validate_python(text), UUID)
    except ValidationError as error:
        assert "meta.cursor of the page before" in str(error)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_there_is_more_only_when_more_was_found(count: int) -> None:
    found = [UUID(int=n) for n in range(count)]
    page = Page[UUID].cut(found, 2, lambda item: item)
    assert list(page.data) == found[:2]
    assert (page.meta.has_more, page.meta.cursor) == (count > 2, UUID(int=1) if count > 2 else None)
    assert set(page.model_dump(mode="json", by_alias=True)["meta"]) == {"cursor", "hasMore"}
