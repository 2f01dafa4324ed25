//! `--enable-feature`: which names are known and what they switch.

/// What `--enable-feature` switched on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Keep exemplars.
    pub exemplar_storage: bool,
    /// PromQL functions that upstream calls experimental.
    pub promql_experimental_functions: bool,
    /// Keep `__name__` until the end of an evaluation.
    pub promql_delayed_name_removal: bool,
    /// `anchored` and `smoothed`.
    pub promql_extended_range_selectors: bool,
    /// `fill` modifiers of binary operators.
    pub promql_binop_fill_modifiers: bool,
    /// More `scrape_*` series.
    pub extra_scrape_metrics: bool,
    /// `__type__` and `__unit__` labels.
    pub type_and_unit_labels: bool,
    /// PromQL uses start timestamps.
    pub use_start_timestamps: bool,
    /// `--config.auto-reload` by its older name.
    pub auto_reload_config: bool,
    /// `--web.enable-remote-write-receiver` by its older name.
    pub remote_write_receiver: bool,
    /// `--web.enable-otlp-receiver` by its older name.
    pub otlp_receiver: bool,
    /// Differences in OTLP are added up.
    pub otlp_delta_to_cumulative: bool,
    /// Differences in OTLP are stored as they are.
    pub otlp_native_delta: bool,
    /// `/api/v1/search`.
    pub search_api: bool,
}

impl Features {
    /// Reads comma separated names; gives a warning for each that does nothing.
    pub(crate) fn parse<'a>(lists: impl IntoIterator<Item = &'a str>) -> (Features, Vec<String>) {
        let mut features = Features::default();
        let mut warnings = Vec::new();
        let names = lists.into_iter().flat_map(|list| list.split(',')).map(str::trim).filter(|name| !name.is_empty());
        for name in names {
            if let Some(field) = features.field(name) {
                *field = true;
            } else {
                warnings.push(format!("--enable-feature={name}: {}", why_not(name)));
            }
        }
        (features, warnings)
    }

    fn field(&mut self, name: &str) -> Option<&mut bool> {
        Some(match name {
            "exemplar-storage" => &mut self.exemplar_storage,
            "promql-experimental-functions" => &mut self.promql_experimental_functions,
            "promql-delayed-name-removal" => &mut self.promql_delayed_name_removal,
            "promql-extended-range-selectors" => &mut self.promql_extended_range_selectors,
            "promql-binop-fill-modifiers" => &mut self.promql_binop_fill_modifiers,
            "extra-scrape-metrics" => &mut self.extra_scrape_metrics,
            "type-and-unit-labels" => &mut self.type_and_unit_labels,
            "use-start-timestamps" => &mut self.use_start_timestamps,
            "auto-reload-config" => &mut self.auto_reload_config,
            "remote-write-receiver" => &mut self.remote_write_receiver,
            "otlp-write-receiver" => &mut self.otlp_receiver,
            "otlp-deltatocumulative" => &mut self.otlp_delta_to_cumulative,
            "otlp-native-delta-ingestion" => &mut self.otlp_native_delta,
            "search-api" => &mut self.search_api,
            _ => return None,
        })
    }
}

/// Why a name switches nothing.
fn why_not(name: &str) -> &'static str {
    match name {
        "promql-at-modifier"
        | "promql-negative-offset"
        | "promql-duration-expr"
        | "native-histograms"
        | "ooo-native-histograms"
        | "utf8-names"
        | "new-service-discovery-manager"
        | "no-default-scrape-port"
        | "expand-external-labels" => "always on; the name has no effect",
        "promql-per-step-stats" => "always on where a query asks for `stats=all`; the name has no effect",
        "concurrent-rule-eval" => {
            "groups are evaluated beside each other, the rules of one in turn; the name has no effect"
        }
        "created-timestamp-zero-ingestion" => {
            "start timestamps are kept with their samples, no zero is put in; the name has no effect"
        }
        "auto-gomaxprocs" | "auto-gomemlimit" => "tunes the Go runtime, and there is none here",
        "agent" => "agent mode is not built",
        "memory-snapshot-on-shutdown"
        | "fast-startup"
        | "delayed-compaction"
        | "metadata-wal-records"
        | "use-uncached-io"
        | "xor2-encoding"
        | "histograms-st-encoding"
        | "st-storage"
        | "st-synthesis" => "storage works otherwise here; the name has no effect",
        "old-ui" => "there is one web interface",
        _ => "unknown feature",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_switch_and_others_warn() {
        let (features, warnings) =
            Features::parse(["exemplar-storage,promql-experimental-functions", "nonsense,native-histograms,"]);
        assert!(features.exemplar_storage && features.promql_experimental_functions);
        assert_eq!(
            warnings,
            [
                "--enable-feature=nonsense: unknown feature",
                "--enable-feature=native-histograms: always on; the name has no effect"
            ]
        );
    }
}
