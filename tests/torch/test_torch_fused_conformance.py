"""The fused loops pass conformance; all of it: `--backend sbp_torch.engine:make_fused_engine --level neuron`."""

import pytest

from sbp_conformance.harness import as_backend
from sbp_conformance.levels import cases_of
from sbp_torch.engine import make_fused_engine
from sbp_torch.kernels import fused

# each compiles: a sample of the pairs, and of what else there is; a width that follows is declined by name
CASES = [case for case in cases_of("neuron") if not case.spec.width_follows][::13]
pytestmark = pytest.mark.skipif(not fused.available(), reason="numba is not installed")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_sample_of_the_neuron_cases_passes(case):
    backend = as_backend(make_fused_engine())
    single = "float32" if "float32" in case.dtypes else case.dtypes[0]
    for dtype in (single, *(["bfloat16"] if "bfloat16" in case.dtypes else [])):
        problems = [finding for finding in case.run(backend, dtype=dtype, mode="eager") if finding.problem]
        assert not problems, (dtype, problems)
