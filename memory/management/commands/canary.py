"""manage.py canary run|status|promote|abort"""

import math
from dataclasses import asdict
from pathlib import Path

from django.conf import settings

from memory.maintenance.advisory_lock import Busy
from memory.maintenance.command import Exit, ServiceCommand, failed, usage
from memory.maintenance.doctor import examine
from memory.rollout import rollouts
from memory.rollout.by_hand import end_by_hand
from memory.rollout.checklist import Reach, checklist, missing
from memory.rollout.flags import read_flags
from memory.rollout.plan import WINDOW_SECONDS, Plan
from memory.rollout.proxy import NoSplit, set_proxy_percent
from memory.rollout.report import write_report
from memory.rollout.schema_back import take_back_last_migration
from memory.rollout.start import RETRY_HOURS, make_run, new_folder, record_of, rollout_to_run
from memory.rollout.traffic import FLAG

ADVISORY_LOCK = 0x52314341
_REACH = {"endpoint": "ENDPOINT", "prometheus": "PROMETHEUS", "alertmanager": "ALERTMANAGER",
          "proxy_config": "PROXY_CONFIG", "tokens_file": "USERS"}  # fmt: skip


class Command(ServiceCommand):
    help = (
        "run: give 5, 50 and 100 percent of users the new pipeline, look at it all the time, and take it back by "
        "itself where it hurts; a run that was killed goes on. status: the last run. promote, abort: all traffic to "
        "the new pipeline, or none. Exit 1 where the run was rolled back, aborted or may not begin, 4 where held."
    )
    lock = ADVISORY_LOCK

    def add_arguments(self, parser):
        parser.add_argument("action", choices=("run", "status", "promote", "abort"))
        parser.add_argument("--endpoint", help="the service's address, without /api/v1")
        parser.add_argument("--metrics", help="its page of metrics; default: the endpoint's /metrics/memory")
        parser.add_argument("--prometheus", help="a Prometheus server to read instead")
        parser.add_argument("--alertmanager", help="who is told of a rollback")
        parser.add_argument("--proxy-config", help="an nginx file whose split_clients follows the percentage")
        parser.add_argument("--tokens-file", help="tokens of at least five test users; the first two are tripwires")
        parser.add_argument("--evidence", help="the folder to write; default: a new one under var/canary")
        parser.add_argument("--if-ready", action="store_true", help="begin where nothing is missing, else do nothing")
        parser.add_argument("--force", metavar="REASON", default="", help="begin although the checks or 24 h forbid it")
        parser.add_argument("--reason", default="", help="why it is promoted or aborted by hand; stands in its row")
        parser.add_argument("--schema", action="store_true", help="after a rollback, take the last migration back")
        parser.add_argument("--check-seconds", type=float, default=300, help="between two checkpoints (300)")
        parser.add_argument(
            "--stage-seconds", default="3600,86400,86400", help="of each stage, or of all (3600,86400,86400)"
        )
        parser.add_argument("--time-scale", type=float, default=1, help="so many times faster, for a drill (1)")
        parser.add_argument(
            "--window-seconds", type=float, help="of the queries' signals; default 300, or half a stage"
        )
        parser.add_argument("--dry-run", action="store_true", help="only look at what a run needs")

    def handle(self, *, action, **options):
        {"run": self._run, "status": self._status}.get(action, lambda options: self._end(action, options))(options)

    def _run(self, options) -> None:
        plan = _plan(options)
        reach = _reach(options)
        items = checklist(reach)
        lacking = missing(items, everything=options["if_ready"])
        said = {"checklist": [item.line() for item in items], "missing": lacking}
        if options["if_ready"] and lacking:
            return self.conclude({"started": False, **said}, indent=2)
        if lacking and not options["dry_run"]:
            raise usage(f"a run needs: {'; '.join(lacking)}")
        against = self._prechecks()
        if options["dry_run"]:
            code = Exit.FINDINGS if lacking or against else Exit.DONE
            return self.conclude({"started": False, **said, "against": against}, code, indent=2)
        if against and not options["force"]:
            raise failed(f"no run may begin: {'; '.join(against)}. --force REASON begins one nevertheless")
        with self.alone():
            folder = Path(options["evidence"] or new_folder(settings.VAR_DIR / "canary")).absolute()
            rollout, is_resumed = rollout_to_run(plan, folder, options["force"])
            run, record = self._made(rollout, plan, reach)
            self.work(lambda: {"evidence": rollout.evidence, "stage": run.stage, "percent": read_flags()[FLAG]})
            record.event("started", resumed=is_resumed, stage=rollout.stage, forced=options["force"])
            record.event("precheck", ok=not against, checklist=said["checklist"], against=against)
            ending = run.run()
            taken_back = None
            if options["schema"] and ending.verdict in ("rolled_back", "aborted") and ending.is_done:
                taken_back = asdict(take_back_last_migration())
                record.event("rollback", schema=taken_back)
        report = _report(Path(rollout.evidence))
        code = {"promoted": Exit.DONE, "held": Exit.PARTIAL}.get(ending.verdict, Exit.FINDINGS)
        self.conclude(
            {**asdict(ending), "stage": run.stage, "evidence": rollout.evidence, "evidence_lost": record.lost,
             "report": report, "schema": taken_back},
            code if ending.is_done else Exit.FINDINGS,
            indent=2,
        )  # fmt: skip

    def _made(self, rollout, plan, reach):
        try:
            return make_run(rollout, plan, reach, self._say)
        except OSError as exc:
            rollouts.end(rollout.id, "aborted", ["the evidence could not be written"], 0)
            raise usage(f"the evidence cannot be written ({type(exc).__name__}): {rollout.evidence}") from None

    def _prechecks(self) -> list[str]:
        """What speaks against a run, as sentences."""
        against = [f"{finding.check}: {finding.detail}" for finding in examine() if finding.status == "fail"]
        if before := rollouts.rolled_back_since(RETRY_HOURS):
            against.append(
                f"the run of {before.began:%Y-%m-%d %H:%M} was rolled back less than {RETRY_HOURS:.0f} h ago"
            )
        return against

    def _status(self, options) -> None:
        rollout = rollouts.latest_rollout()
        try:
            with self.alone():
                is_at_work = False
        except Busy:
            is_at_work = True
        shown = {key: value for key, value in asdict(rollout).items() if value not in (None, "")} if rollout else {}
        said = {name: value if isinstance(value, int | str) else _said(value) for name, value in shown.items()}
        self.conclude({FLAG: read_flags()[FLAG], "is_at_work": is_at_work, "rollout": said or None}, indent=2)

    def _end(self, action, options) -> None:
        before = rollouts.rolled_back_since(RETRY_HOURS) if action == "promote" else None
        if before is not None and not options["force"]:
            raise failed(
                f"a run was rolled back less than {RETRY_HOURS:.0f} h ago; --force REASON promotes nevertheless"
            )
        if options["dry_run"]:
            return self.conclude({"would": action, FLAG: read_flags()[FLAG]})
        reason = options["reason"] or options["force"] or f"{action} by hand"
        rollout, is_told = end_by_hand(action, self.alone(), Busy, reason)
        if not is_told:
            self._tell_proxy(_reach(options).proxy_config, 0 if action == "abort" else 100)
        if rollout is not None and not is_told:
            record_of(rollout).decided_by_hand(rollout.verdict or "", reason, rollout.stage, rollout.began.timestamp())
        taken_back = None
        if options["schema"] and action == "abort" and not is_told:
            taken_back = asdict(take_back_last_migration())
        self.conclude(
            {FLAG: read_flags()[FLAG], "run_told": is_told, "rollout": str(rollout.id) if rollout else None,
             "schema": taken_back}
        )  # fmt: skip

    def _tell_proxy(self, path, percent) -> None:
        try:
            if path and set_proxy_percent(Path(path), percent):
                self._say(f"the proxy's file has {percent} % now; nginx has to read it again")
        except NoSplit as exc:
            self._say(f"the proxy's file was not changed: {exc}")

    def _say(self, sentence: str) -> None:
        self.stderr.write(f"canary: {sentence}", style_func=str)


def _said(value):
    return [*value] if isinstance(value, tuple) else value.isoformat() if hasattr(value, "isoformat") else str(value)


def _report(folder: Path) -> str | None:
    """The page that a person reads, written from the evidence; None where it cannot be."""
    try:
        return str(write_report(folder)[0])
    except OSError:
        return None


def _plan(options) -> Plan:
    try:
        seconds = [float(part) for part in options["stage_seconds"].split(",")]
    except ValueError:
        raise usage("--stage-seconds takes one number, or three with commas") from None
    percents = [percent for percent, _ in Plan.stages]
    if len(seconds) not in (1, len(percents)):
        raise usage("--stage-seconds takes one number, or three with commas")
    seconds = seconds * len(percents) if len(seconds) == 1 else seconds
    scale, check, window = options["time_scale"], options["check_seconds"], options["window_seconds"]
    if not all(math.isfinite(value) and value > 0 for value in (*seconds, scale, check, window or 1)):
        raise usage("times and their scale are above 0")
    window = window or min(WINDOW_SECONDS, min(seconds) / scale / 2)
    return Plan(tuple(zip(percents, seconds, strict=True)), check, scale, window)


def _reach(options) -> Reach:
    given = {name: options[name] or getattr(settings, f"MEMORY_CANARY_{setting}") for name, setting in _REACH.items()}
    given["endpoint"] = given["endpoint"].rstrip("/")
    metrics = options["metrics"] or (f"{given['endpoint']}/metrics/memory" if given["endpoint"] else "")
    return Reach(**given, metrics=metrics, metrics_token=settings.MEMORY_METRICS_TOKEN or "")
