"""The pages of docs/beside that need a library which is not among the tests' own.

``make conformance`` installs them; elsewhere a page is skipped whose library is missing.
"""

import warnings

import pytest
from test_docs import BESIDE, ROOT, as_a_user, check  # noqa: F401


@pytest.mark.conformance
@pytest.mark.filterwarnings("ignore::DeprecationWarning:kfac_jax.*")
@pytest.mark.parametrize("page", BESIDE)
def test_page(page):
    with warnings.catch_warnings():
        # What libraries warn of at import is theirs.
        warnings.simplefilter("ignore")
        for library in BESIDE[page]:
            pytest.importorskip(library)
    check((ROOT / "docs" / "beside" / page).read_text())
