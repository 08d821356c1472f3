"""Gates: the conditions that a user sets for a result, checked against the report."""

from __future__ import annotations

from bnncc.config import Config
from bnncc.report import BenchReport, GateReport, LayerReport, VerifyReport
from bnncc.tables import percent_text

_DIFFERENCES = {
    "max_abs_diff": "largest difference of the outputs",
    "max_rel_diff": "largest difference relative to the output's scale",
}


def verify_gates(config: Config, verify: VerifyReport | None) -> list[GateReport]:
    """Check `min_argmax_agreement`, `max_abs_diff` and `max_rel_diff`; what was not compared fails."""
    gates = []
    if config.min_argmax_agreement is not None:
        limit, value = config.min_argmax_agreement, verify.argmax_agreement if verify else None
        passed = value is not None and value >= limit
        found = percent_text(value) if value is not None else "no output with classes was compared"
        text = f"same class: {found}, at least {percent_text(limit)} asked for"
        gates.append(GateReport("min_argmax_agreement", limit, value, passed, text))
    for name, words in _DIFFERENCES.items():
        limit, value = getattr(config, name), getattr(verify, name, None)
        if limit is not None:
            passed = value is not None and value <= limit
            found = f"{value:.3g}" if value is not None else "nothing was compared"
            gates.append(GateReport(name, limit, value, passed, f"{words}: {found}, at most {limit:g} asked for"))
    return gates


def bench_gates(config: Config, bench: BenchReport | None) -> list[GateReport]:
    """Check `min_speedup`."""
    if config.min_speedup is None:
        return []
    limit, value = config.min_speedup, bench.ratio if bench else None
    passed = value is not None and value >= limit
    found = f"{value:.2f}x" if value is not None else "not measured"
    return [GateReport("min_speedup", limit, value, passed, f"speed-up: {found}, at least {limit:g}x asked for")]


def layer_gates(config: Config, layers: list[LayerReport]) -> list[GateReport]:
    """Check `require_binary`: every layer with binary weights, or behind a binarizer, must be binary."""
    if config.require_binary is None:
        return []
    # Recognized, but not on a kernel, is not there yet: so it is where `lower` is off.
    done = {layer.name for layer in layers if layer.status == "binary" and layer.kernel is not None}
    left = [layer.name for layer in layers if layer.candidate and layer.name not in done]
    text = "every layer that could be binary is"
    if left:
        named = ", ".join(left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
        text = f"not binary, for all their binary weights or the binarizers before them: {named}"
    return [GateReport("require_binary", config.require_binary, len(left), not left, text)]


def failures(gates: list[GateReport]) -> list[str]:
    """Return what the failed gates say."""
    return [gate.text for gate in gates if not gate.passed]
