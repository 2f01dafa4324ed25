//! Lists that come in pages.

use std::collections::BTreeSet;
use std::time::Duration;

use super::world::World;
use crate::api::{AlertFilter, GettableAlert};
use crate::views::{LOOK_ALERTS_MAX, join_groups, sort_alerts};

const CONFIG: &str = "
route:
  receiver: hook
  group_by: [alertname]
  group_wait: 1h
  routes:
  - {receiver: second, matchers: [n=~\"1.*\"], group_by: [n], continue: true}
receivers: [{name: hook}, {name: second}]
";

/// All pages: the values, and how many of them there were.
fn walk<T, P>(page: impl Fn(Option<P>) -> crate::views::Page<T, P>) -> (Vec<T>, usize) {
    let (mut found, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        let part = page(after);
        pages += 1;
        assert!(pages < 1000, "the pages have no end");
        found.extend(part.found);
        after = part.next;
        if after.is_none() {
            return (found, pages);
        }
    }
}

#[test]
fn pages_hold_every_alert_and_every_group_once() {
    let mut world = World::new(1, CONFIG, 3);
    world.run_for(Duration::from_secs(20));
    // Three groups larger than a page, many small ones, in two routes.
    let large = 2 * LOOK_ALERTS_MAX + 17;
    for n in 0..large {
        for name in ["a", "b", "c"] {
            world.post(0, &[("alertname", name), ("n", &n.to_string())], true);
        }
    }
    world.run_for(Duration::from_secs(5));
    let (mind, now) = world.mind(0);
    let texts = |alerts: &[GettableAlert]| alerts.iter().map(|alert| alert.labels.to_string()).collect::<BTreeSet<_>>();
    let filter = AlertFilter::default();
    let (mut alerts, pages) = walk(|after| mind.alerts_page(&filter, after, now));
    sort_alerts(&mut alerts);
    assert_eq!((alerts.len(), texts(&alerts).len()), (3 * large, 3 * large));
    assert!(pages > 3 * large / LOOK_ALERTS_MAX, "{pages}");

    let check = |filter: &AlertFilter, groups_expected: usize, alerts_expected: usize| {
        let (parts, _) = walk(|after| mind.groups_page(filter, after, now));
        let groups = join_groups(parts);
        let total: usize = groups.iter().map(|group| group.alerts.len()).sum();
        let distinct: usize = groups.iter().map(|group| texts(&group.alerts).len()).sum();
        assert_eq!((groups.len(), total, distinct), (groups_expected, alerts_expected, alerts_expected), "{filter:?}");
    };
    let second: usize = (0..large).filter(|n| n.to_string().starts_with('1')).count();
    // What the second route takes does not fall through to the first: nobody else matches.
    check(&filter, second + 3, 3 * large);
    let asked = |receiver: &str| AlertFilter::parse([("receiver", receiver)], Default::default()).expect("a filter");
    check(&asked("second"), second, 3 * second);
    check(&asked("hook"), 3, 3 * (large - second));
    check(&asked("nobody"), 0, 0);

    let (mut counts, mut after) = ([0, 0], None);
    loop {
        let (part, next) = mind.alert_counts_page(after, now);
        counts = [counts[0] + part[0], counts[1] + part[1]];
        after = next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(counts, [3 * large, 0]);
}
