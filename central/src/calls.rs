//! Whom an operator's wish that computers check now reaches, and by which way. Pure, but for the one function
//! that sends.

use std::{collections::BTreeMap, fmt, sync::Arc};

use roaring::RoaringBitmap;
use tierway_common::{
    daemon::chain::Chain,
    id::{EndpointId, RelayId, SiteId},
    notices::{Absent, ENDPOINTS_PER_ORDER_MAX, Order},
};
use tierway_proto::notices::Notices;
use tracing::warn;

use crate::{
    fleet::{self, AskError},
    model::Model,
    server::Central,
};

/// Which endpoints are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// One, by name or id.
    One(String),
    /// Those of a site, of a group, or of both; without either all.
    Many {
        /// Of this site.
        site: Option<String>,
        /// Of this group.
        group: Option<String>,
    },
}

/// What they are to do besides checking, and who of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Report all facts and states.
    pub report_inventory: bool,
    /// Also those on the road.
    pub roaming: bool,
    /// Also those that are not connected, when they come.
    pub offline: bool,
}

impl Whom {
    /// As the audit log names it.
    fn object(&self, meant: &BTreeMap<SiteId, Vec<EndpointId>>) -> String {
        match self {
            Self::One(_) => meant.values().flatten().map(|id| format!("endpoint:{id}")).collect(),
            Self::Many { site: None, group: None } => "everyone".to_owned(),
            Self::Many { site, group } => {
                let parts = [("site", site), ("group", group)];
                let named =
                    parts.iter().filter_map(|(what, name)| Some(format!("{what}:{}", name.as_ref()?)));
                named.collect::<Vec<_>>().join(" ")
            }
        }
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { report_inventory, roaming, offline } = *self;
        let said = [(report_inventory, "report inventory"), (roaming, "roaming"), (offline, "offline")];
        let said: Vec<_> = said.into_iter().filter_map(|(wanted, text)| wanted.then_some(text)).collect();
        f.write_str(&said.join(", "))
    }
}

/// The endpoints that are meant, by site. Who is named alone is meant wherever he is.
///
/// # Errors
///
/// [`AskError`] when a name is not known, or not of one endpoint only.
pub fn meant(
    model: &Model,
    whom: &Whom,
    wish: &mut Wish,
) -> Result<BTreeMap<SiteId, Vec<EndpointId>>, AskError> {
    let not_found = |what, name: &str| AskError::NotFound { what, name: name.to_owned() };
    let mut numbers = RoaringBitmap::new();
    match whom {
        Whom::One(name) => {
            numbers.insert(fleet::endpoint(model, name)?.number);
            (wish.roaming, wish.offline) = (true, true);
        }
        Whom::Many { site, group } => {
            numbers |= model.active();
            if let Some(name) = site {
                let of_site = name.parse().ok().and_then(|site: SiteId| model.sites().get(&site));
                numbers &= of_site.ok_or_else(|| not_found("site", name))?;
            }
            if let Some(name) = group {
                let members = name.parse().ok().and_then(|group| model.members().get(&group));
                numbers &= members.ok_or_else(|| not_found("group", name))?;
            }
        }
    }
    let mut by_site = BTreeMap::<SiteId, Vec<EndpointId>>::new();
    for endpoint in numbers.iter().filter_map(|number| model.endpoint(number)) {
        by_site.entry(endpoint.site.clone()).or_default().push(endpoint.id.clone());
    }
    Ok(by_site)
}

/// Where an order goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// To those that it names themselves.
    Direct,
    /// To this relay, which passes it on.
    Relay(RelayId),
}

/// The orders that reach `meant`: who watches central himself is told himself, the others by the relays of
/// their site, or by every relay while none of those watches central, since it may be behind another; who may be
/// on the road by every relay. At a site without a relay everybody comes to central. However many relays carry the same
/// order, it is there once.
#[must_use]
pub fn orders(
    meant: BTreeMap<SiteId, Vec<EndpointId>>,
    wish: Wish,
    relays: &[(RelayId, SiteId)],
    watches: impl Fn(&str) -> bool,
) -> Vec<(Way, Arc<Order>)> {
    let Wish { report_inventory, roaming, offline } = wish;
    let crowd = meant.values().map(Vec::len).sum::<usize>() > 1;
    let order = |part: &[EndpointId]| {
        Arc::new(Order { endpoints: part.to_vec(), report_inventory, roaming, offline, crowd })
    };
    let mut orders = Vec::new();
    for (site, endpoints) in meant {
        let (here, below): (Vec<_>, Vec<_>) = endpoints.into_iter().partition(|id| watches(id.as_str()));
        let mut of_site = relays.iter().filter(|(_, of)| *of == site).peekable();
        let at_site = of_site.peek().is_some();
        let behind = at_site && !of_site.any(|(relay, _)| watches(relay.as_str()));
        let ways: Vec<_> = relays.iter().filter(|(_, of)| roaming || behind || *of == site).collect();
        for part in here.chunks(ENDPOINTS_PER_ORDER_MAX) {
            orders.push((Way::Direct, order(part)));
        }
        for part in below.chunks(ENDPOINTS_PER_ORDER_MAX) {
            let order = order(part);
            if offline && !at_site {
                orders.push((Way::Direct, order.clone()));
            }
            for (relay, _) in &ways {
                orders.push((Way::Relay(relay.clone()), order.clone()));
            }
        }
    }
    orders
}

/// Writes the wish down and sends it; how many endpoints are meant, and the sequence of the audit record.
///
/// # Errors
///
/// [`AskError`] when a name is not known, or the store fails.
pub fn call(central: &Central, actor: &str, whom: &Whom, mut wish: Wish) -> Result<(u64, u64), AskError> {
    let ((meant, relays), sequence) = central.state.change(|model, change| {
        let meant = meant(model, whom, &mut wish)?;
        change.audit(actor, "check now", whom.object(&meant), wish.to_string());
        let relays = model.relays().values().filter(|relay| !relay.revoked);
        let relays: Vec<_> = relays.map(|relay| (relay.id.clone(), relay.site.clone())).collect();
        Ok::<_, AskError>((meant, relays))
    })?;
    // What was decided before shall be seen; should that fail, the next publication brings it.
    if let Err(error) = central.publisher.publish() {
        warn!(error = %Chain(&error), "could not publish before a check");
    }
    let count = meant.values().map(|endpoints| endpoints.len() as u64).sum();
    send(&central.notices, orders(meant, wish, &relays, |peer| central.notices.is_watching(peer)));
    Ok((count, sequence))
}

/// Sends orders. A relay that is away for the moment is told when it is back.
fn send(notices: &Notices, orders: Vec<(Way, Arc<Order>)>) {
    for (way, order) in orders {
        match way {
            Way::Direct => notices.order_each(&order),
            Way::Relay(relay) => notices.order_by_way_of(relay.as_str(), order, Absent::Hold),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(id: &str) -> EndpointId {
        id.parse().unwrap()
    }

    fn site(name: &str) -> SiteId {
        name.parse().unwrap()
    }

    fn relays() -> Vec<(RelayId, SiteId)> {
        [("r1", "osaka"), ("r2", "osaka"), ("r3", "lyon")]
            .map(|(id, of)| (id.parse().unwrap(), site(of)))
            .to_vec()
    }

    /// Way and endpoints of each order.
    fn ways(wish: Wish, watching: &[&str]) -> Vec<(String, Vec<String>)> {
        let meant = BTreeMap::from([
            (site("osaka"), vec![endpoint("a"), endpoint("b")]),
            (site("nowhere"), vec![endpoint("c")]),
        ]);
        let orders = orders(meant, wish, &relays(), |id| watching.contains(&id) || id == "r2");
        assert!(orders.iter().all(|(_, order)| order.crowd));
        let told = |(way, order): (Way, Arc<Order>)| {
            let way = match way {
                Way::Direct => "direct".to_owned(),
                Way::Relay(relay) => relay.to_string(),
            };
            (way, order.endpoints.iter().map(ToString::to_string).collect())
        };
        orders.into_iter().map(told).collect()
    }

    fn told(way: &str, endpoints: &[&str]) -> (String, Vec<String>) {
        (way.to_owned(), endpoints.iter().map(|id| (*id).to_owned()).collect())
    }

    #[test]
    fn endpoints_are_told_by_the_relays_of_their_site_and_who_watches_central_by_central() {
        assert_eq!(ways(Wish::default(), &[]), [told("r1", &["a", "b"]), told("r2", &["a", "b"])]);
        assert_eq!(
            ways(Wish::default(), &["a", "c"]),
            [told("direct", &["c"]), told("direct", &["a"]), told("r1", &["b"]), told("r2", &["b"])]
        );
    }

    #[test]
    fn who_may_be_on_the_road_is_looked_for_everywhere_and_who_may_be_away_is_waited_for() {
        let wish = Wish { roaming: true, ..Wish::default() };
        assert_eq!(ways(wish, &["a", "b"])[..3], ["r1", "r2", "r3"].map(|relay| told(relay, &["c"])));
        let wish = Wish { offline: true, ..Wish::default() };
        assert_eq!(ways(wish, &["a", "b"]), [told("direct", &["c"]), told("direct", &["a", "b"])]);
    }

    #[test]
    fn a_relay_that_does_not_watch_central_is_looked_for_behind_every_other() {
        let meant = BTreeMap::from([(site("lyon"), vec![endpoint("a")])]);
        let found = |watching: &[&str]| {
            let orders = orders(meant.clone(), Wish::default(), &relays(), |id| watching.contains(&id));
            orders.into_iter().map(|(way, _)| way).collect::<Vec<_>>()
        };
        let by =
            |relays: &[&str]| relays.iter().map(|id| Way::Relay(id.parse().unwrap())).collect::<Vec<_>>();
        assert_eq!(found(&["r1", "r3"]), by(&["r3"]));
        assert_eq!(found(&["r1"]), by(&["r1", "r2", "r3"]));
        let orders = orders(meant.clone(), Wish::default(), &relays(), |_| false);
        assert!(orders.iter().all(|(_, order)| Arc::ptr_eq(order, &orders[0].1)), "it is kept once");
    }

    #[test]
    fn an_order_for_many_is_cut_into_parts() {
        let many: Vec<_> =
            (0..=ENDPOINTS_PER_ORDER_MAX).map(|number| endpoint(&format!("e{number}"))).collect();
        let meant = BTreeMap::from([(site("lyon"), many)]);
        let orders = orders(meant, Wish::default(), &relays(), |id| id == "r3");
        let lengths: Vec<_> = orders.iter().map(|(_, order)| order.endpoints.len()).collect();
        assert_eq!(lengths, [ENDPOINTS_PER_ORDER_MAX, 1]);
    }
}
