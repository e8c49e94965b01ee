"""Records the outcome of every record of a load: counts it, logs it, and keeps what the verification needs."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

from msgspec.structs import replace

from seed_registry.errors import SeedRegistryError, TooManyRejects, VerificationFailed
from seed_registry.index.unread_arrays import log_unread
from seed_registry.key_hashes import KeySample, hash_key, hash_keys
from seed_registry.load.key_counts import IndexKeys, KeyCounts, correct
from seed_registry.load.listed_keys import ListedKeys
from seed_registry.records import Asset, Record, Reject, Source, SourceRow, checked
from seed_registry.registry.key_owners import key_hasher
from seed_registry.registry.tables import Tables
from seed_registry.rejects.writer import RejectsFile
from seed_registry.report import Counts, Incomplete, Progress, Report, Tally
from seed_registry.settings import Settings
from seed_registry.shortfall import Expectation, Total, empty_handed, fix_of, incomplete, mostly_missing, shortfall

# Warnings beyond these of a reason are only counted.
_WARNINGS_PER_REASON: Final = 20
# A record larger than this is not kept in memory for being verified.
_SAMPLED_RECORD_BYTES: Final = 1 << 20


class OutcomeRecorder:
    """The outcomes of one load.

    Attributes:
        expectation: what the verification compares the database with; complete after `close`.
        keys: the keys of the assets that were sent.
        names: of the indexes so far.
        settled: the outcomes of held assets, which belong to any index of the run; also in the tally.
        rejects: the rejects file.
        listed_keys: of all records with `retire`, else of rejects; for the end of the run, not closed with the others.
    """

    def __init__(
        self,
        settings: Settings,
        tally: Tally,
        progress: Progress,
        rejects: RejectsFile | None,
        tables: Tables | None = None,
        *,
        is_empty: bool = False,
    ) -> None:
        """`tables` say what is unique of an asset; with `is_empty` no asset had a row before this run."""
        self.listed_keys = ListedKeys(keeps_keys=settings.retire)
        self.expectation = Expectation()
        self._index = ""  # that is being read
        self.tally = tally
        self.progress = progress
        self._max_rejects = settings.max_rejects
        self.rejects = rejects
        self.keys = KeyCounts(is_empty=is_empty)
        self.names: list[str] = []
        self.settled = Counts()
        self._settled_in: dict[int, Counts] = {}  # by the number of the index
        self._by_index: list[IndexKeys] = []
        self._key = tables.assets.key if tables else ("asset_key",)
        self._key_hash = key_hasher(tables)
        self._sample = KeySample[tuple[SourceRow, Asset]](settings.verify_sample)
        self._warned: dict[str, int] = {}

    @property
    def index_number(self) -> int:
        """The number of the index that is being read, from 0."""
        return max(len(self.names) - 1, 0)

    def next_index(self, name: str) -> None:
        """Begin the next index of the run, whether it can be read or not."""
        self.names.append(name)
        if self.index_number:
            self.keys.start_index()

    def start_index(self, name: str, former_key: Callable[[Asset], str | None]) -> None:
        """Begin to read an index; `former_key` is the key that an earlier version gave to the record of an asset."""
        del former_key  # for dry runs
        self._index = name

    def finish_index(
        self, declared: Iterable[tuple[str, int, int]], totals: Iterable[Total], unread: Mapping[str, int]
    ) -> None:
        """Keep what an index that was read to its end declares, and log the records in it that are not read."""
        expectation = self.expectation
        expectation.declared.extend(declared)
        expectation.totals.extend(replace(total, index=self._index) for total in totals)
        expectation.unread.extend(log_unread(self._index, unread, self.progress))

    def leave_index(self) -> None:
        """End an index, whether it was read to its end or not."""

    def count_keys(self, parts: Sequence[Counts]) -> None:
        """Count each key of the run once, in the counts of the run and in those of its indexes; all is written."""
        keys, keys_were_new = self.keys.by_index(), self.keys.is_empty
        self._by_index = keys
        for number, (part, of) in enumerate(zip(parts, keys, strict=True)):
            settled = self._settled_in.get(number, Counts())
            part.rejected += settled.rejected
            part.updated += settled.updated
            part.resumed += settled.resumed
            part.older += settled.older
            if not keys_were_new:  # else they are among those of the index
                of.inserted += settled.inserted
        correct(self.tally.assets, parts, keys)

    def note_listed(self, assets: Sequence[Asset], key_hashes: Sequence[int], sources: Mapping[str, SourceRow]) -> None:
        """Note assets that are listed and go to the database, at once or later; their sources are among `sources`."""
        if assets and self.listed_keys.keeps_keys:
            self.listed_keys.send(key_hashes if len(self._key) == 1 else self.row_hashes(assets, sources))

    def count_sent(self, assets: Sequence[Asset], key_hashes: Sequence[int], sources: Mapping[str, SourceRow]) -> None:
        """Count assets that go to the database; their sources are among `sources`."""
        if not assets:
            return
        self.tally.assets_by_source.update(map(attrgetter("source_key"), assets))
        self.keys.send(self._identities(assets, key_hashes, sources))
        sample = self._sample
        if min(key_hashes) < sample.limit or not sample.items.keys().isdisjoint([asset.key for asset in assets]):
            for asset, key_hash in zip(assets, key_hashes, strict=True):
                if key_hash < sample.limit or asset.key in sample.items:
                    record = checked(asset)
                    if type(record) is Asset and len(record.raw) <= _SAMPLED_RECORD_BYTES:
                        sample.offer(record.key, key_hash, (sources[asset.source_key], record))
                    elif type(record) is Asset:
                        sample.forget(record.key)
        self._count_all_checked(assets)

    def leave(self, records: Sequence[Record], sources: Mapping[str, SourceRow]) -> None:
        """Count records of other parts of the keys, which this run does not load.

        `sources` are the known ones, if the repeats of their assets count.
        """
        self.tally.assets.other_parts += len(records)
        if assets := [record for record in records if type(record) is Asset and record.source_key in sources]:
            self.keys.leave(self.identities(assets, sources))
        # A reject whose key is not known may be an asset of any part.
        self.listed_keys.unreadable += sum(type(record) is Reject and record.key is None for record in records)

    def _count_all_checked(self, assets: Sequence[Asset]) -> None:
        if not all(map(attrgetter("unchecked"), assets)):
            for asset in assets:
                if asset.unchecked is None:
                    self.count_checked(asset)

    def row_hashes(self, assets: Sequence[Asset], sources: Mapping[str, SourceRow]) -> list[int]:
        """The hash of each asset's unique key in the table."""
        if len(self._key) == 1:
            return hash_keys([asset.key for asset in assets])
        return [self._key_hash(sources[one.source_key].provider, one.source_key, one.key) for one in assets]

    def identities(self, assets: Sequence[Asset], sources: Mapping[str, SourceRow]) -> Sequence[int]:
        """The hash of what distinguishes each asset from all others, as it was counted when it was sent."""
        return self._identities(assets, hash_keys([asset.key for asset in assets]), sources)

    def _identities(
        self, assets: Sequence[Asset], key_hashes: Sequence[int], sources: Mapping[str, SourceRow]
    ) -> Sequence[int]:
        """A hash of what distinguishes each asset from all others."""
        identities = key_hashes if len(self._key) == 1 else self.row_hashes(assets, sources)
        if "source_id" in self._key or not any(map(attrgetter("own_key"), assets)):
            return identities
        identities = list(identities)
        for at, asset in enumerate(assets):
            if asset.own_key:
                identities[at] = hash_key(f"{asset.source_key}\0{asset.key}")
        return identities

    def count_checked(self, asset: Asset) -> None:
        """Count what the checks repaired or ignored in an asset that goes to the database, or has gone there."""
        if asset.repaired:
            self.tally.repaired += 1
        if asset.date_ignored:
            self.tally.dates_ignored += 1
            self.tally.ignored_fields["updated_at"] += 1
            self._warn("date_ignored", "date_ignored", asset)
        if asset.texts_ignored:
            self.count_ignored(asset)

    def count_ignored(self, record: Asset | Source) -> None:
        """Count the fields of a record that should be texts and are not."""
        for name in record.texts_ignored:
            self.tally.texts_ignored += 1
            self.tally.ignored_fields[name] += 1
            self._warn("text_ignored", "text_ignored", record, field=name)

    def skip_without_source(self, asset: Asset) -> None:
        """Count an asset that is not loaded, for its index does not list its source."""
        self.tally.assets.missing_source += 1
        self.listed_keys.skip(asset.key)
        self._warn("source_missing", "missing_source", asset, source=asset.source_key)

    def skip_older(self, assets: Sequence[Asset], held: Sequence[Asset], key_hash: Callable[[Asset], int]) -> None:
        """Keep out of the verification assets that were sent and not written, for the registry has newer ones.

        `held` are those of them that the table has an own row for, `key_hash` is of what distinguishes an asset.
        """
        del held, key_hash
        self.expectation.refused_assets += len(assets)
        for asset in assets:
            self._sample.forget(asset.key)

    def reject_refused(
        self, asset: Asset, detail: str, sources: Mapping[str, SourceRow], index: tuple[int, str] | None = None
    ) -> None:
        """Reject an asset that the database refused; see `reject_sent`.

        Raises:
            TooManyRejects: that was one too many.
        """
        place = (asset.raw, asset.line, asset.offset)
        self.reject_sent(Reject("database_refused", detail, *place, "asset", asset.key), asset, sources, index)

    def reject_sent(
        self, reject: Reject, asset: Asset, sources: Mapping[str, SourceRow], index: tuple[int, str] | None = None
    ) -> None:
        """Reject an asset that was sent; `index` is the number and the name of its index, if it is not the current one.

        Raises:
            TooManyRejects: that was one too many.
        """
        number, name = index or (None, self._index)
        self.keys.refuse(self._identities([asset], hash_keys([asset.key]), sources)[0], number)
        if number is not None:
            self.count_settled(Counts(rejected=1), number)
        self._sample.forget(reject.key)
        current, self._index = self._index, name
        try:
            self.reject(reject)
        finally:
            self._index = current

    def count_settled(self, counts: Counts, index: int) -> None:
        """Count outcomes of held assets of an index, which the tally has as well."""
        self.settled = self.settled.plus(counts)
        self._settled_in[index] = self._settled_in.get(index, Counts()).plus(counts)

    def reject(self, reject: Reject) -> None:
        """Count, log and keep a reject.

        Raises:
            TooManyRejects: that was one too many.
        """
        tally = self.tally
        counts = tally.sources if reject.kind == "source" else tally.assets
        counts.rejected += 1
        tally.rejects[reject.reason] += 1
        self._note_reject(reject)
        if self.rejects is not None:
            self.rejects.write(self._index, reject)
        self._warn("record_rejected", reject.reason, reject, detail=reject.detail)
        self.require_few_rejects()

    def _note_reject(self, reject: Reject) -> None:
        if reject.kind != "source" or reject.key is None:
            self.listed_keys.reject(reject.reason, reject.key)

    def require_few_rejects(self) -> None:
        """Check that not too many records were rejected so far.

        Raises:
            TooManyRejects: they are too many.
        """
        if self._max_rejects.exceeded(self._rejected, self.tally.read):
            self.stop(self._too_many())

    def keep_reject(self, index: str, reject: Reject, line: bytes) -> None:
        """Keep and log a reject that another process counted, by its line of the rejects file."""
        self._index = index
        self._note_reject(reject)
        if self.rejects is not None:
            self.rejects.write_line(line)
        self._warn("record_rejected", reject.reason, reject, detail=reject.detail)

    def take_expectation(self, distinct_assets: int, sample: Mapping[str, tuple[SourceRow, Asset]]) -> None:
        """Expect what other processes have sent."""
        self._by_index = [IndexKeys(distinct=distinct_assets)]
        self.keys.distinct_sent = distinct_assets
        self._sample.items = dict(sample)

    def stop(self, too_many: TooManyRejects) -> None:
        """End the load."""
        raise too_many

    def incomplete(self) -> list[Incomplete]:
        """The indexes whose portals have more records than were read; after `close`."""
        repeated = sum(self.tally.assets_by_source.values()) - self.keys.distinct_sent
        return incomplete(self.expectation.totals, repeated + self.keys.repeats_left)

    def verdict(self, report: Report) -> SeedRegistryError | None:
        """The error of a run that was read to its end, by its counts; None if they are good."""
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

    def sync_rejects(self) -> None:
        """Bring the rejects so far to disk; before a checkpoint says that their batch is done."""
        if self.rejects is not None:
            self.rejects.sync()

    def close(self) -> None:
        """Complete the expectation, close the rejects file and delete temporary files."""
        keys = self._by_index or self.keys.by_index()
        self.expectation.distinct_assets = sum(of.distinct for of in keys)
        self.expectation.sample = self._sample.items
        self.keys.close()
        if self.rejects is not None:
            self.rejects.close()

    @property
    def _rejected(self) -> int:
        """How many records were rejected, also by the run that this one resumes."""
        return max(self.tally.rejected, self.rejects.count) if self.rejects else self.tally.rejected

    def _too_many(self) -> TooManyRejects:
        rejects, fix = self.tally.rejects, fix_of(self.tally.rejects)
        often = f"; most often: {rejects.most_common(1)[0][0]}" if rejects else ""
        return TooManyRejects(
            f"{self._rejected:,} of {self.tally.read:,} records rejected, more than --max-rejects {self._max_rejects} "
            f"allows{often}{self._where(fix) or (fix and chr(10) + fix)}"
        )

    def _where(self, fix: str = "") -> str:
        """The command that shows the rejects, on a line of its own; empty if they are not kept."""
        if self.rejects is None or not self.rejects.created:
            return ""
        path = shlex.quote(str(self.rejects.path))
        return f"\n{fix}{'; ' if fix else ''}look at them with `seed-registry rejects show {path}`"

    def _warn(self, event: str, reason: str, record: Asset | Source | Reject, **facts: Any) -> None:
        """Log the first warnings of a reason."""
        facts = {"index": self._index, "line": record.line, "offset": record.offset, "key": record.key} | facts
        count = self._warned[reason] = self._warned.get(reason, 0) + 1
        if count <= _WARNINGS_PER_REASON:
            self.progress.tell("warning", event, reason=reason, **facts)
        if count == _WARNINGS_PER_REASON:
            self.progress.tell("warning", "warnings_end", reason=reason, note="more of them are only counted")
