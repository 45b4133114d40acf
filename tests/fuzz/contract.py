"""Requests made from the OpenAPI document, sound and unsound, and what the answers must keep to."""

from functools import cache

import hypothesis
import schemathesis
from hypothesis import strategies
from schemathesis import checks

from tests.fuzz.seeds import seeds

# That what fits the schema is accepted is not asked: a text may be no image all the same.
CHECKS = (
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
)


def fuzz_contract(service, seed, examples):
    """Plays requests of every operation; an answer that breaks the contract is a fault."""
    _make_files_of_seeds()
    schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    faults, num_requests = [], 0
    for operation in (result.ok() for result in schema.get_all_operations()):
        calls, fault = _fuzz_operation(operation, seed, examples)
        num_requests += calls
        if fault is not None:
            faults.append(f"{operation.label}: {fault}")
    return {"requests": num_requests, "faults": faults}


def _fuzz_operation(operation, seed, examples):
    num_calls = 0

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=_cases(operation))
    def play(case):
        nonlocal num_calls
        num_calls += 1
        case.call_and_validate(checks=list(CHECKS), timeout=60)

    try:
        play()
    except (AssertionError, schemathesis.errors.SchemathesisError, BaseExceptionGroup) as fault:
        return num_calls, _describe(fault)
    return num_calls, None


def _cases(operation):
    """What fits the schema, and what does not."""
    mode = schemathesis.GenerationMode
    return operation.as_strategy(generation_mode=mode.POSITIVE) | operation.as_strategy(
        generation_mode=mode.NEGATIVE
    )


def _describe(fault):
    causes = fault.exceptions if isinstance(fault, BaseExceptionGroup) else (fault,)
    return "; ".join(f"{type(cause).__name__}: {cause}" for cause in causes)


@cache
def _make_files_of_seeds():
    """Files are pictures more often than not, so that requests get past the decoder."""
    pictures = strategies.sampled_from([image for _, image in seeds()])
    schemathesis.openapi.format("binary", pictures | pictures | strategies.binary())
