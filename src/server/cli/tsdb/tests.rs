use super::*;

/// What promtool prints of the same samples.
#[test]
fn blocks_made_of_open_metrics_are_listed_and_dumped() {
    let text = b"# HELP a x\n# TYPE a gauge\na{b=\"c\"} 1 1700000000\na{b=\"c\"} 1e+20 1700000015.5\n# TYPE d counter\nd_total 3 1700010000\n# EOF\n";
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(create::blocks_of(text, folder.path()).len(), 2);
    let blocks = open(folder.path()).unwrap_or_else(|failure| panic!("{failure:?}"));
    let listed = row(&blocks[0], false);
    assert_eq!(listed[1..7], ["1699999200000", "1700006400000", "2h0m0s", "2", "1", "1"].map(str::to_owned));
    let all =
        dump::select(&blocks, &[Vec::new()], (i64::MIN, i64::MAX)).unwrap_or_else(|failure| panic!("{failure:?}"));
    let mut out = Vec::new();
    for (labels, series) in all {
        series.iter().for_each(|columns| dump::text(&mut out, &labels, columns).expect("written"));
    }
    let expected = "{__name__=\"a\", b=\"c\"} 1 1700000000000\n{__name__=\"a\", b=\"c\"} 1e+20 1700000015500\n\
                    {__name__=\"d_total\"} 3 1700010000000\n";
    assert_eq!(String::from_utf8(out).expect("text"), expected);
}

#[test]
fn figures_are_printed_as_go_prints_them() {
    assert_eq!(go_duration(7_200_000), "2h0m0s");
    assert_eq!(go_duration(90_500), "1m30.5s");
    assert_eq!(human_time(1_700_000_000_000), "2023-11-14 22:13:20 +0000 UTC");
}
