//! `promesh cluster top`: the mesh as it changes, in a terminal.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use clap::ArgMatches;
use serde_json::Value;

use super::super::{Done, Failure, http};
use super::{status, text};
use crate::clock;

/// Newest changes below the members.
const CHANGES: usize = 8;
/// From the upper left corner on, what stood there is written over, and the rest cleared.
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

/// Shows the mesh again and again until it is interrupted, or so many times. A peer that does not answer is said, and asked
/// again: that is what one watches for.
pub(super) fn run(matches: &ArgMatches) -> Done {
    let url = matches.get_one::<String>("url").expect("it has a default");
    let interval = matches.get_one::<String>("interval").expect("it has a default");
    let interval = promesh_model::duration::parse(interval)
        .ok()
        .filter(|interval| *interval >= Duration::from_millis(100))
        .ok_or_else(|| Failure::usage(format!("--interval: {interval:?} is no duration of 100ms or more")))?;
    let times = *matches.get_one::<u64>("count").expect("it has a default");
    let live = io::stdout().is_terminal();
    let mut shown = 0;
    let failed = loop {
        let answer = http::get(url, "/api/v1/cluster", &[]);
        let failed = answer.is_err();
        let page = match answer {
            Ok(answer) => page(&answer.data),
            Err(failure) => format!("{url} does not answer: {}\n", failure.message),
        };
        let page = format!("{}  {url}, every {interval:?}\n{page}", clock::wall());
        // A closed pipe ends it, as it ends any other command.
        if io::stdout().write_all(on_screen(&page, live).as_bytes()).and_then(|()| io::stdout().flush()).is_err() {
            return Ok(());
        }
        shown += 1;
        if times > 0 && shown >= times {
            break failed;
        }
        std::thread::sleep(interval);
    };
    if failed { Err(Failure::quiet()) } else { Ok(()) }
}

/// Written over what was there before, in a terminal; else one page after the other.
fn on_screen(page: &str, live: bool) -> String {
    if live {
        format!("{HOME}{}{CLEAR_BELOW}", page.replace('\n', &format!("{CLEAR_LINE}\n")))
    } else {
        format!("{page}\n")
    }
}

/// Totals, members, what is being copied, the newest changes.
fn page(cluster: &Value) -> String {
    let mut page = format!("{}\n", status(cluster));
    let copies = &cluster["copies"];
    if copies["bytesLeft"].as_u64().is_some_and(|bytes| bytes > 0) {
        let eta = copies["etaSeconds"].as_f64().unwrap_or(0.0);
        page.push_str(&format!("\ncopying: {} bytes left, about {eta:.0} s\n", copies["bytesLeft"]));
    }
    let changes = cluster["lastChanges"].as_array().map_or(&[][..], Vec::as_slice);
    if !changes.is_empty() {
        page.push_str("\nNEWEST CHANGES\n");
    }
    for change in changes.iter().take(CHANGES) {
        let line = [&change["at"], &change["what"], &change["peer"], &change["reason"]].map(text).join("  ");
        page.push_str(&format!("{}\n", line.trim_end()));
    }
    page
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_page_has_members_copies_and_the_newest_changes() {
        let change =
            |n: u32| json!({"at": format!("t{n}"), "what": "takeover", "peer": "p", "reason": "beats stopped"});
        let changes: Vec<Value> = (0..20).map(change).collect();
        let member = json!({"id": "1", "name": "host-a", "state": "ready"});
        let cluster = json!({"self": "1", "members": [member], "lastChanges": changes,
            "copies": {"bytesLeft": 5, "etaSeconds": 2.4}});
        let page = page(&cluster);
        assert!(page.contains("host-a") && page.contains("copying: 5 bytes left, about 2 s"), "{page}");
        assert!(page.contains("t7  takeover  p  beats stopped") && !page.contains("t8"), "{page}");
        assert_eq!(on_screen("a\nb\n", true), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
        assert_eq!(on_screen("a\n", false), "a\n\n");
    }
}
