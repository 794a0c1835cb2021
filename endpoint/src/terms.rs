//! What is agreed about installations here besides the decisions: what exit codes mean, and how long each
//! update takes on the fleet.

use std::{collections::BTreeMap, time::Duration};

use tierway_common::{
    id::UpdateId,
    schema::policy::{ResultCodes, Timing},
};
use tierway_proto::sync::CatalogueError;

use crate::{
    catalogues::Lookup,
    cycle::documents,
    install::{
        codes::Codes,
        failsafe::{self, Limit},
    },
    policy::{Certainty, Membership},
};

/// Of one computer, for the updates that are approved here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// What exit codes mean.
    pub codes: Codes,
    /// What updates took on the fleet.
    pub timings: BTreeMap<UpdateId, Timing>,
}

impl Terms {
    /// Reads the published documents that hold for a computer with these `memberships`, highest priority
    /// first, about `updates`.
    ///
    /// # Errors
    ///
    /// When a node of the policy is not here and cannot be had.
    pub async fn read(
        lookup: &Lookup,
        memberships: &[Membership],
        updates: &[UpdateId],
    ) -> Result<Self, CatalogueError> {
        let mut tables: Vec<ResultCodes> = Vec::new();
        for membership in memberships.iter().rev() {
            if membership.certainty != Certainty::Certain {
                continue;
            }
            tables.extend(one(lookup, &format!("result-codes/group/{}", membership.group)).await?);
        }
        tables.extend(documents::<ResultCodes>(lookup.policy("result-codes/update/").await?));
        let mut timings = BTreeMap::new();
        for update in updates {
            if let Some(timing) = one(lookup, &format!("timing/{update}")).await? {
                timings.insert(update.clone(), timing);
            }
        }
        Ok(Self { codes: Codes::new(&tables), timings })
    }

    /// After which the installation of `update` is ended on a computer of `class`.
    #[must_use]
    pub fn limit(&self, update: &UpdateId, class: &str, configured: Duration) -> Limit {
        failsafe::limit(self.timings.get(update), class, configured)
    }
}

/// The document with exactly this key.
pub(crate) async fn one<T: serde::de::DeserializeOwned>(
    lookup: &Lookup,
    key: &str,
) -> Result<Option<T>, CatalogueError> {
    let mut found = lookup.policy(key).await?;
    found.retain(|(found, _)| found == key);
    Ok(documents(found).next())
}
