//! What has to be true of a transaction, whatever happened to it.

use stormglass_core::wire::header::Resolution;

/// A transaction as its producers and its consumers saw it.
#[derive(Clone, Debug, Default)]
pub struct Tale {
    /// What the producers' database says in the end: whoever never got to write
    /// into it rolled back.
    pub truth: Option<Resolution>,
    /// Decisions that members sent, in order, and what was answered: `true` if
    /// it stands, `false` if another one does, none if nobody answered.
    pub decisions: Vec<(Resolution, Option<bool>)>,
    /// Copies that a consumer saw before any member had sent a commit.
    pub seen_early: usize,
    /// Copies that a consumer sees in the end.
    pub copies: usize,
    /// Copies seen at some time and not any more.
    pub vanished: usize,
    /// Halves that are still undecided in the end.
    pub open: usize,
    /// Checks that a member received, and those after a decision was known to
    /// stand.
    pub checks: usize,
    pub checks_after: usize,
}

pub fn judge(tale: &Tale) -> Result<(), String> {
    let said = |wanted| tale.decisions.iter().any(|(resolution, _)| *resolution == wanted);
    if tale.seen_early > 0 {
        return Err("a consumer saw what nobody had committed".into());
    }
    if tale.vanished > 0 {
        return Err("what a consumer saw is gone".into());
    }
    if tale.open > 0 {
        return Err("nobody decided, though members were there to be asked".into());
    }
    if tale.checks > 15 {
        return Err(format!("{} checks", tale.checks));
    }
    if tale.checks_after > 0 {
        return Err("a decided transaction was checked".into());
    }
    let stands = match tale.copies {
        0 => Resolution::Rollback,
        1 => Resolution::Commit,
        copies => return Err(format!("{copies} copies")),
    };
    for (resolution, answer) in &tale.decisions {
        let told = match (resolution, answer) {
            (Resolution::Unknown, _) | (_, None) => continue,
            (_, Some(true)) => *resolution,
            (Resolution::Commit, Some(false)) => Resolution::Rollback,
            (Resolution::Rollback, Some(false)) => Resolution::Commit,
        };
        if told != stands {
            return Err(format!("a member was told that {told:?} stands, and {stands:?} does"));
        }
    }
    // The first decision wins: if all said the same, it is what happened.
    let contradicted = said(Resolution::Commit) && said(Resolution::Rollback);
    let truth = tale.truth.unwrap_or(Resolution::Rollback);
    if !contradicted && stands != truth {
        return Err(format!("the database says {truth:?}, and {stands:?} stands"));
    }
    if stands == Resolution::Commit && !said(Resolution::Commit) {
        return Err("it was committed, and nobody said so".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed() -> Tale {
        Tale {
            truth: Some(Resolution::Commit),
            decisions: vec![(Resolution::Commit, Some(true))],
            copies: 1,
            checks: 3,
            ..Tale::default()
        }
    }

    #[test]
    fn good_tales_pass() {
        let contradicted = vec![(Resolution::Commit, None), (Resolution::Rollback, Some(false))];
        for tale in [
            committed(),
            // Died before it knew: the half is rolled back, or was never stored.
            Tale::default(),
            Tale { decisions: contradicted, ..committed() },
        ] {
            assert_eq!(judge(&tale), Ok(()));
        }
    }

    #[test]
    fn bad_tales_do_not() {
        let told = |resolution, answer| vec![(resolution, Some(answer))];
        for bad in [
            Tale { copies: 0, ..committed() },
            Tale { copies: 2, ..committed() },
            Tale { seen_early: 1, ..committed() },
            Tale { vanished: 1, ..committed() },
            Tale { open: 1, copies: 0, truth: None, decisions: Vec::new(), ..committed() },
            Tale { checks: 16, ..committed() },
            Tale { checks_after: 1, ..committed() },
            Tale { decisions: told(Resolution::Commit, false), ..committed() },
            Tale { decisions: told(Resolution::Rollback, false), copies: 0, ..committed() },
            Tale { truth: None, ..committed() },
            Tale { decisions: Vec::new(), ..committed() },
        ] {
            assert!(judge(&bad).is_err(), "{bad:?}");
        }
    }
}
