//! Finding the end of the log after any crash.
//!
//! A crash may take any subset of the pages written since the last finished
//! sync, so the log may end in a torn entry with intact ones behind it. That
//! is normal and cut. Bytes before the durable end that are not what was
//! written there are damage, and never skipped. Three things tell one from the
//! other:
//!
//! - **Claims.** Every entry carries the durable end that was known when it
//!   was written. Everything below the highest claim, in the log's valid part
//!   or behind the first invalid entry, must be intact.
//! - **Seals.** Checksums hold for one position of one store only, so what an
//!   earlier use left in a recycled segment is noise.
//! - **Terms.** They never decrease along the log, and every life of a store
//!   appends under a fresh one. What an earlier life left behind a torn tail
//!   is sealed for the very place where it lies, but as soon as this life has
//!   an entry before it, it is older than that and cannot continue the log.
//!   Before this life has one, there is a wiped header at the cut.
//!
//! The last point needs an order: the fresh term and the wiped header must be
//! durable before the first new entry is written, which is why the log opens in
//! [`Phase::Repairing`].
//!
//! In a group a term lives longer than a process, and an uncommitted tail can be
//! cut off (see [`truncate`](super::truncate)). There the *life* does what the
//! term does for a single node: the `store` file says from where on only entries
//! of the newest life count.
//!
//! After the death of a process the tail is in the page cache, perhaps only
//! there: a page whose write-back failed earlier counts as clean. So what no
//! claim covers is written once more, the same bytes, and the first sync is
//! about all of it.

use std::collections::VecDeque;

use super::{
    Base, CommitLog, LogConfig, Place, Replicas, blank,
    commit_log::{Phase, Staged, Syncs},
    identity::{self, Identity},
    index::Index,
    record::{HEADER, Header, Seal, Stamp},
    segment::{self, Segment, Step},
    snapshot,
    spares::Spares,
};
use crate::{
    error::{Corrupt, StoreError},
    ids::{LogIndex, Position, Term},
    runtime::{Disk, FileId},
};

/// The search for claims behind the end of the log leaves a segment after so
/// many bytes without an entry. The largest entries have half of it.
const QUIET: u64 = 32 << 20;
const CHUNK: u64 = 1 << 20;
const PAGE: u64 = 4096;

/// What `open` found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// A term that no earlier life of this store has used, for a group of one
    /// to append under.
    pub fresh_term: Term,
    /// What `open` was given, or the beginning if nothing on the disk counts.
    pub base: Base,
    /// Where the log ends.
    pub end: Position,
    /// The last life stopped with [`CommitLog::close`](super::CommitLog::close),
    /// so nothing it handed out is missing. Also true at birth.
    pub clean: bool,
    /// Why a replica of a group lost a part of its log that was durable.
    pub damage: Option<Corrupt>,
}

/// The valid part of the log.
struct Tail {
    end: Position,
    last: (LogIndex, Term),
    life: u32,
    /// Everything below was durable once.
    floor: Position,
    index: Option<Index>,
}

/// A replica of a group that cannot make sense of its disk sets everything
/// aside and begins blank; a single one refuses.
pub(super) fn open<D: Disk>(
    disk: &mut D,
    mut config: LogConfig,
    base: Base,
) -> Result<(CommitLog, Recovered), StoreError> {
    match find(disk, config.clone(), base) {
        Err(StoreError::Corrupt(damage)) if config.replicas != Replicas::Alone => {
            blank::set_aside(disk, &mut config)?;
            let (log, found) = find(disk, config, Base::default())?;
            Ok((log, Recovered { damage: Some(damage), ..found }))
        }
        done => done,
    }
}

fn find<D: Disk>(
    disk: &mut D,
    config: LogConfig,
    mut base: Base,
) -> Result<(CommitLog, Recovered), StoreError> {
    let bytes = config.segment_bytes;
    let allowed = bytes.is_multiple_of(PAGE) && (PAGE..=1 << 31).contains(&bytes);
    assert!(allowed, "segment_bytes is {bytes}");
    let known = Identity::load(disk)?;
    if known.is_some_and(|(_, identity)| identity.is_blank) {
        blank::wipe(disk)?;
        base = Base::default();
    }
    let (starts, spare_names) = segment::list(disk)?;
    let mut found = Vec::new();
    for start in starts {
        found.push(Segment::open(disk, start)?);
    }
    let begins = known.map_or(Position(0), |(_, identity)| identity.begins);
    // A real file system may lose a new file's length.
    let useless = |segment: &mut Segment| segment.len == 0 || segment.start < begins;
    let useless: Vec<Segment> = found.extract_if(.., useless).collect();
    let mut identity = match known {
        Some((_, identity)) if identity.is_blank => identity.blank(),
        Some((_, identity)) => identity,
        None => birth(disk, &found, &config, base)?,
    };
    let seal = Seal { store_id: identity.store_id };

    let floor = base.position.max(identity.durable);
    let (mut segments, mut strays) = connected(found, base, floor)?;
    let is_grouped = config.replicas != Replicas::Alone;
    let mut tail = Tail {
        end: base.position,
        last: (base.index, base.term),
        life: 0,
        floor,
        index: is_grouped.then(|| Index::new(base)),
    };
    scan(disk, seal, &segments, base, &identity, &mut tail)?;
    let sound = check(disk, seal, &segments, &strays, &identity, &tail);
    let damage = match sound {
        Err(StoreError::Corrupt(damage)) if is_grouped => Some(damage),
        other => other.map(|()| None)?,
    };
    tail.floor = tail.floor.min(tail.end);

    // From here on the log is known to be sound, and the disk is changed.
    useless.into_iter().try_for_each(|segment| segment.remove(disk))?;
    let mut syncs = Syncs::default();
    while segments.len() > 1 && segments[segments.len() - 1].start > tail.end {
        strays.push(segments.pop_back().expect("more than one"));
    }
    if segments.is_empty() {
        segments.push_back(Segment::create(disk, tail.end, config.segment_bytes)?);
    }
    refresh(disk, seal, &segments, &tail, &mut syncs)?;
    if let Some(file) = snapshot::refresh(disk, seal.store_id, base)? {
        syncs.touch(file);
    }
    let next = keep_next(disk, &segments, strays, &config, &mut syncs)?;
    let mut spares = Spares::default();
    for name in spare_names {
        adopt_spare(disk, name, &config, &mut spares, &mut syncs)?;
    }

    let clean = identity.clean && identity.durable == tail.end;
    identity.term = tail.last.1.max(identity.term);
    match config.replicas {
        Replicas::Alone => identity.term.0 += 1,
        Replicas::Group { founding } => {
            // The last life wrote something only once all before it was durable.
            let settled = tail.life == identity.life();
            identity.cut(tail.end, settled);
            identity.commit = identity.commit.min(tail.last.0);
            identity.is_distrusted |= damage.is_some() || (known.is_none() && !founding);
            identity.is_blank |= identity.is_distrusted && tail.last.0 == LogIndex(0);
        }
    }
    identity.durable = tail.floor;
    identity.clean = false;
    let file = match known {
        Some((file, _)) => file,
        None => Identity::create(disk)?,
    };
    identity.store(disk, file)?;
    syncs.touch(file);

    let clean = clean && damage.is_none();
    let recovered = Recovered { fresh_term: identity.term, base, end: tail.end, clean, damage };
    let log = CommitLog {
        config,
        seal,
        identity: (file, identity),
        segments,
        next,
        spares,
        doomed: Vec::new(),
        index: tail.index,
        staged: Staged::default(),
        last: tail.last,
        end: tail.end,
        written: tail.end,
        durable: tail.floor,
        syncs,
        copy_after: (identity.life() > 0).then_some(1),
        phase: Phase::Repairing { sync: 1 },
    };
    Ok((log, recovered))
}

/// A disk without a legible identity is a new one, or one that lost power
/// before anything was written to its log.
fn birth<D: Disk>(
    disk: &mut D,
    found: &[Segment],
    config: &LogConfig,
    base: Base,
) -> Result<Identity, StoreError> {
    for segment in found {
        let first = segment.read(disk, segment.start, segment.len.min(PAGE))?;
        if first.iter().any(|byte| *byte != 0) {
            return Err(identity::damaged("it is missing or illegible, but there is a log").into());
        }
    }
    if base != Base::default() {
        return Err(identity::damaged("it is missing or illegible, but there is a snapshot").into());
    }
    Ok(Identity::born(config.birth_id))
}

/// The run of segments without gaps around `base`, and all others: expired
/// ones whose removal a crash undid, or what follows a gap.
fn connected(
    found: Vec<Segment>,
    base: Base,
    floor: Position,
) -> Result<(VecDeque<Segment>, Vec<Segment>), StoreError> {
    let Some(holder) = found.iter().rposition(|segment| segment.start <= base.position) else {
        if floor == Position(0) {
            // Nothing was ever durable: the first segment's name may be lost.
            return Ok((VecDeque::new(), found));
        }
        let what = match found.first() {
            Some(first) => format!("the log starts at {} only", first.start),
            None => format!("there is no log, but it was durable up to {floor}"),
        };
        let file = segment::segment_name(base.position);
        return Err(Corrupt { file, position: Some(base.position), what }.into());
    };
    if found[holder].end() < base.position {
        let what = format!("the log is needed from {} on, and not there", base.position);
        return Err(found[holder].corrupt(base.position, what));
    }
    let gap = |pair: &[Segment]| pair[0].end() != pair[1].start;
    let first = found[..=holder].windows(2).rposition(gap).map_or(0, |at| at + 1);
    let after = found[holder..].windows(2).position(gap).map_or(found.len(), |at| holder + at + 1);
    let strays = [&found[..first], &found[after..]].concat();
    Ok((found[first..after].iter().copied().collect(), strays))
}

/// Walks the entries behind `base` up to the first that does not continue the
/// log, and notes in `tail` what it passes.
fn scan<D: Disk>(
    disk: &mut D,
    seal: Seal,
    segments: &VecDeque<Segment>,
    base: Base,
    identity: &Identity,
    tail: &mut Tail,
) -> Result<(), StoreError> {
    let behind = segments.iter().filter(|segment| segment.end() > base.position);
    let mut at = base.position;
    for segment in behind {
        at = at.max(segment.start);
        loop {
            match segment.step(disk, seal, at)? {
                Step::Entry(header, ..) if continues(&header, at, identity, tail) => {
                    let kind = header.kind();
                    let Stamp { index, term, life, claim } = header.stamp;
                    let end = Position(at.0 + header.size());
                    if let Some(known) = &mut tail.index {
                        let place = Place { index, term, start: at, end };
                        known.push(place, kind, at == segment.start);
                    }
                    at = end;
                    tail.end = end;
                    tail.last = (index, term);
                    tail.life = life;
                    tail.floor = tail.floor.max(claim);
                }
                Step::SegmentEnd(_) => break,
                Step::Entry(..) | Step::Invalid => return Ok(()),
            }
        }
    }
    Ok(())
}

fn continues(header: &Header, at: Position, identity: &Identity, tail: &Tail) -> bool {
    let stamp = header.stamp;
    stamp.index.0 == tail.last.0.0 + 1
        && stamp.term >= tail.last.1
        && stamp.life >= tail.life
        && !identity.is_cut_off(at, stamp.life)
}

/// Whether everything is there that some entry or the identity says was
/// durable.
fn check<D: Disk>(
    disk: &mut D,
    seal: Seal,
    segments: &VecDeque<Segment>,
    strays: &[Segment],
    identity: &Identity,
    tail: &Tail,
) -> Result<(), StoreError> {
    if tail.floor > tail.end {
        let what = format!("the log was durable up to {}, here it is not intact", tail.floor);
        let holder = segments.iter().rfind(|segment| segment.start <= tail.end);
        let holder = holder.unwrap_or(&segments[0]);
        return Err(holder.corrupt(tail.end, what));
    }
    search_claims(disk, seal, segments.iter().chain(strays), identity, tail)
}

/// Refuses a log behind whose end there is an entry that was written when more
/// of it was durable.
fn search_claims<'a, D: Disk>(
    disk: &mut D,
    seal: Seal,
    segments: impl Iterator<Item = &'a Segment>,
    identity: &Identity,
    tail: &Tail,
) -> Result<(), StoreError> {
    for segment in segments.filter(|segment| segment.end() > tail.end) {
        let mut at = segment.start.max(tail.end);
        let mut seen = at;
        while segment.room(at) >= HEADER as u64 && at.0 - seen.0 < QUIET {
            // Chunks overlap, so that no header is cut in two.
            let chunk = segment.read(disk, at, segment.room(at).min(CHUNK + HEADER as u64))?;
            for offset in (0..=chunk.len() - HEADER).step_by(8) {
                let here = Position(at.0 + offset as u64);
                let header = Header::decode(seal, here, &chunk[offset..], segment.room(here));
                let Some(header) = header else { continue };
                seen = here;
                let Stamp { term, life, claim, .. } = header.stamp;
                let counts = term >= tail.last.1 && !identity.is_cut_off(here, life);
                if counts && claim > tail.end {
                    let what = format!(
                        "damaged: the entry at {here} was written when all before {claim} was durable"
                    );
                    return Err(segment.corrupt(tail.end, what));
                }
            }
            at = Position((at.0 + CHUNK).min(segment.end().0));
        }
    }
    Ok(())
}

/// Writes once more what is not known to be durable, and wipes the place where
/// the next entry goes.
fn refresh<D: Disk>(
    disk: &mut D,
    seal: Seal,
    segments: &VecDeque<Segment>,
    tail: &Tail,
    syncs: &mut Syncs,
) -> Result<(), StoreError> {
    for segment in segments.iter().filter(|segment| segment.end() > tail.floor) {
        let mut at = segment.start.max(tail.floor);
        while at < tail.end.min(segment.end()) {
            // Verified again: writing back a misdirected read would be fatal.
            match segment.step(disk, seal, at)? {
                Step::Entry(header, _, bytes) => {
                    segment.write(disk, at, &bytes)?;
                    at = Position(at.0 + header.size());
                }
                Step::SegmentEnd(pad) => {
                    segment.write(disk, at, &pad)?;
                    break;
                }
                Step::Invalid => return Err(segment.corrupt(at, "it reads differently each time")),
            }
        }
        syncs.touch(segment.file);
    }
    let active = segments[segments.len() - 1];
    wipe_header(disk, &active, tail.end)?;
    syncs.touch(active.file);
    for sealed in segments.iter().take(segments.len() - 1) {
        disk.seal(sealed.file);
    }
    Ok(())
}

fn wipe_header<D: Disk>(disk: &mut D, segment: &Segment, at: Position) -> Result<(), StoreError> {
    let len = segment.room(at).min(HEADER as u64) as usize;
    segment.write(disk, at, &[0; HEADER][..len])
}

/// Of the segments that belong to no part of the log, keeps the one that comes
/// next and removes the others.
fn keep_next<D: Disk>(
    disk: &mut D,
    segments: &VecDeque<Segment>,
    strays: Vec<Segment>,
    config: &LogConfig,
    syncs: &mut Syncs,
) -> Result<Option<Segment>, StoreError> {
    let end = segments[segments.len() - 1].end();
    let mut next = None;
    for stray in strays {
        if stray.start == end && stray.len == config.segment_bytes {
            wipe_header(disk, &stray, end)?;
            syncs.touch(stray.file);
            next = Some(stray);
        } else {
            stray.remove(disk)?;
        }
    }
    Ok(next)
}

fn adopt_spare<D: Disk>(
    disk: &mut D,
    name: String,
    config: &LogConfig,
    spares: &mut Spares,
    syncs: &mut Syncs,
) -> Result<(), StoreError> {
    let failed = |error| StoreError::Io { doing: "opening", file: name.clone(), error };
    let (file, len): (FileId, u64) = disk.open(&name).map_err(failed)?;
    if len == config.segment_bytes && spares.len() < config.spare_segments {
        spares.found(file, name, len, syncs);
        return Ok(());
    }
    disk.remove(file).map_err(failed)
}
