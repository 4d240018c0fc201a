"""What the tests of the page share: a store of many runs."""

import apsw
import msgspec
import pytest

from trioflow.checkpoint import _rows


@pytest.fixture
def copy_run():
    """Saves a run of the store at `path` again, many times: as the store would, without waiting for the disk."""

    def copy(path, run_id, count):
        db = apsw.Connection(str(path))
        try:
            db.pragma("synchronous", "off")
            checkpoint = _rows.load(db, run_id, None)
            for number in range(count):
                copied = msgspec.structs.replace(checkpoint, run_id=f"{run_id}{number}")
                _rows.save(db, copied, _rows.claim(db, copied.run_id, None))
        finally:
            db.close()

    return copy
