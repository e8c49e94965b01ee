"""Accounting: what becomes of every record of a load, counted, told and kept for the verification."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

from msgspec.structs import replace

from seed_registry.errors import SeedRegistryError, TooManyRejects, VerificationFailed
from seed_registry.index.reader import IndexReader
from seed_registry.index.unread_arrays import log_unread
from seed_registry.key_hashes import KeySample, hash_key, hash_keys
from seed_registry.records import Asset, Reject, Source, SourceRow, checked
from seed_registry.rejects.writer import RejectsFile
from seed_registry.report import Incomplete, Progress, Report, Tally
from seed_registry.settings import Settings
from seed_registry.shortfall import empty_handed, fix_of, incomplete, mostly_missing, shortfall
from seed_registry.spill import DistinctHashes
from seed_registry.verify.checks import Expectation

# Warnings beyond these of a reason are only counted.
_WARNINGS_PER_REASON: Final = 20
# A record larger than this is not kept in memory for being verified.
_SAMPLED_RECORD_BYTES: Final = 1 << 20


class OutcomeRecorder:
    """The books of one load.

    Attributes:
        loaded: what a load leaves for its verification; complete after `close`.
    """

    def __init__(
        self,
        settings: Settings,
        tally: Tally,
        progress: Progress,
        rejects: RejectsFile | None,
        *,
        keys_per_source: bool,
    ) -> None:
        self.loaded = Expectation()
        self.tally = tally
        self.progress = progress
        self._max_rejects = settings.max_rejects
        self._rejects = rejects
        self._keys_per_source = keys_per_source
        self._distinct = DistinctHashes()
        self._sample = KeySample[tuple[SourceRow, Asset]](settings.verify_sample)
        self._warned: dict[str, int] = {}

    def begun(self, reader: IndexReader) -> None:
        """Note that an index is read from now on."""

    def finished(self, reader: IndexReader) -> None:
        """Note that an index was read to its end."""
        loaded, name = self.loaded, reader.name
        loaded.declared.extend(reader.declared())
        loaded.totals.extend(replace(total, index=name) for total in reader.totals())
        loaded.unread.extend(log_unread(name, reader.unread(), self.progress))

    def sent(self, assets: Sequence[Asset], key_hashes: Sequence[int], sources: Mapping[str, SourceRow]) -> None:
        """Note assets that go to the database; their sources are among `sources`."""
        if not assets:
            return
        self.tally.assets_by_source.update(map(attrgetter("source_key"), assets))
        self._distinct.extend(self._identities(assets, key_hashes))
        sample = self._sample
        if min(key_hashes) < sample.limit or not sample.items.keys().isdisjoint([asset.key for asset in assets]):
            for asset, key_hash in zip(assets, key_hashes, strict=True):
                if key_hash < sample.limit or asset.key in sample.items:
                    record = checked(asset)
                    if type(record) is Asset and len(record.raw) <= _SAMPLED_RECORD_BYTES:
                        sample.offer(record.key, key_hash, (sources[asset.source_key], record))
                    elif type(record) is Asset:
                        sample.forget(record.key)
        if not all(map(attrgetter("unchecked"), assets)):
            for asset in assets:
                if asset.unchecked is None:
                    self.checked(asset)

    def _identities(self, assets: Sequence[Asset], key_hashes: Sequence[int]) -> Sequence[int]:
        """A hash of what tells each asset from all others."""
        if self._keys_per_source:
            return hash_keys(f"{asset.source_key}\0{asset.key}" for asset in assets)
        if not any(map(attrgetter("own_key"), assets)):
            return key_hashes
        own = [at for at, asset in enumerate(assets) if asset.own_key]
        identities = list(key_hashes)
        for at in own:
            identities[at] = hash_key(f"{assets[at].source_key}\0{assets[at].key}")
        return identities

    def checked(self, asset: Asset) -> None:
        """Note what the checks of an asset found, once it has gone to the database, or goes there."""
        if asset.repaired:
            self.tally.repaired += 1
        if asset.date_ignored:
            self.tally.dates_ignored += 1
            self.tally.ignored_fields["updated_at"] += 1
            self._warn("date_ignored", "date_ignored", self.tally.index, asset)
        if asset.texts_ignored:
            self.ignored(asset)

    def ignored(self, record: Asset | Source) -> None:
        """Note the texts of a record that are none."""
        for name in record.texts_ignored:
            self.tally.texts_ignored += 1
            self.tally.ignored_fields[name] += 1
            self._warn("text_ignored", "text_ignored", self.tally.index, record, field=name)

    def missing(self, asset: Asset) -> None:
        """Note an asset whose source its index does not list."""
        self.tally.assets.missing_source += 1
        self._warn("source_missing", "missing_source", self.tally.index, asset, source=asset.source_key)

    def refused(self, index: str, asset: Asset, detail: str) -> None:
        """Note an asset that went to the database and was refused.

        Raises:
            TooManyRejects: that was one too many.
        """
        place = (asset.raw, asset.line, asset.offset)
        self.not_taken(index, Reject("database_refused", detail, *place, "asset", asset.key))

    def not_taken(self, index: str, reject: Reject) -> None:
        """Note an asset that went to the database and is not there.

        Raises:
            TooManyRejects: that was one too many.
        """
        self.loaded.refused_assets += 1
        self._sample.forget(reject.key)
        self.reject(index, reject)

    def reject(self, index: str, reject: Reject) -> None:
        """Count, log and keep a reject.

        Raises:
            TooManyRejects: that was one too many.
        """
        tally = self.tally
        counts = tally.sources if reject.kind == "source" else tally.assets
        counts.rejected += 1
        tally.rejects[reject.reason] += 1
        if self._rejects is not None:
            self._rejects.write(index, reject)
        self._warn("record_rejected", reject.reason, index, reject, detail=reject.detail)
        if self._max_rejects.exceeded(self._rejected, tally.read):
            self.stop(self._too_many())

    def stop(self, too_many: TooManyRejects) -> None:
        """End the load."""
        raise too_many

    def incomplete(self) -> list[Incomplete]:
        """What the portals have more of than was read; after `close`."""
        sent = sum(self.tally.assets_by_source.values())
        return incomplete(self.loaded.totals, sent - self.loaded.distinct_assets)

    def verdict(self, report: Report) -> SeedRegistryError | None:
        """What the counts of a run that was read to its end say against it; None if nothing."""
        counts, is_over = empty_handed(report), self._max_rejects.exceeded(self._rejected, self.tally.read, at_end=True)
        if counts is None and not is_over:
            return None
        if counts is not None and mostly_missing(counts) and not is_over:
            return VerificationFailed(shortfall(report, self.tally.rejects), report)
        too_many = self._too_many()
        if counts is not None:
            too_many = TooManyRejects(f"{shortfall(report, self.tally.rejects)}{self._where()}")
        too_many.report, too_many.is_whole = report, True
        return too_many

    def keep_rejects(self) -> None:
        """Bring the rejects so far to disk."""
        if self._rejects is not None:
            self._rejects.sync()

    def close(self) -> None:
        """Complete `loaded` and give temporary files back."""
        self.loaded.distinct_assets = self._distinct.count()
        self.loaded.sample = self._sample.items
        self._distinct.close()

    @property
    def _rejected(self) -> int:
        """How many records were rejected, by the run that this one resumes, too."""
        return max(self.tally.rejected, self._rejects.count) if self._rejects else self.tally.rejected

    def _too_many(self) -> TooManyRejects:
        rejects, fix = self.tally.rejects, fix_of(self.tally.rejects)
        often = f"; most often: {rejects.most_common(1)[0][0]}" if rejects else ""
        return TooManyRejects(
            f"{self._rejected:,} of {self.tally.read:,} records rejected, more than --max-rejects {self._max_rejects} "
            f"allows{often}{self._where(fix) or (fix and chr(10) + fix)}"
        )

    def _where(self, fix: str = "") -> str:
        """How to look at the rejects, on a line of its own; empty if they are not kept."""
        if self._rejects is None or not self._rejects.created:
            return ""
        path = shlex.quote(str(self._rejects.path))
        return f"\n{fix}{'; ' if fix else ''}look at them with `seed-registry rejects show {path}`"

    def _warn(self, event: str, reason: str, index: str, record: Asset | Source | Reject, **facts: Any) -> None:
        """Tell the first few of a kind."""
        facts = {"index": index, "line": record.line, "offset": record.offset, "key": record.key} | facts
        count = self._warned[reason] = self._warned.get(reason, 0) + 1
        if count <= _WARNINGS_PER_REASON:
            self.progress.tell("warning", event, reason=reason, **facts)
        if count == _WARNINGS_PER_REASON:
            self.progress.tell("warning", "warnings_end", reason=reason, note="more of them are only counted")
