//! Alerts and dashboard ask for metrics that there are.

use std::{collections::BTreeSet, fs};

use ebpf_hello_e2e::chart::{render, repository};

use super::rendering::EVERYTHING;

/// Every `ebpf_hello_…` in a text.
fn names(text: &str) -> BTreeSet<String> {
    let part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    text.match_indices("ebpf_hello_")
        .map(|(at, _)| text[at..].chars().take_while(|c| part(*c)).collect())
        .collect()
}

#[test]
fn every_metric_that_is_asked_for_is_registered() {
    let mut registered = BTreeSet::new();
    for folder in ["agent/src", "collector/src"] {
        for entry in fs::read_dir(repository().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().contains("metrics"))
                && path.is_file()
            {
                registered.extend(names(&fs::read_to_string(path).unwrap()));
            }
        }
    }
    let text = render(EVERYTHING)
        .into_iter()
        .filter(|object| {
            let name = object["metadata"]["name"].as_str().unwrap();
            object["kind"] == "PrometheusRule" || name.ends_with("-dashboard")
        })
        .map(|object| object.to_string())
        .collect::<String>();
    let asked = names(&text);
    assert!(asked.len() > 10, "{asked:?}");
    for name in asked {
        // A regular expression over several, or what a histogram and a counter add to their names.
        let base = ["_total", "_bucket", "_seconds"]
            .iter()
            .fold(name.as_str(), |name, end| {
                name.strip_suffix(end).unwrap_or(name)
            });
        let base = base.strip_suffix("_seconds").unwrap_or(base);
        let is_known = registered.contains(base) || base == "ebpf_hello_events_";
        assert!(is_known, "{name} is asked for; there are {registered:?}");
    }
}

#[test]
fn the_dashboard_is_json_whose_panels_say_what_they_ask() {
    let objects = render(EVERYTHING);
    let map = objects
        .iter()
        .find(|object| object["metadata"]["name"] == "ebpf-hello-dashboard")
        .unwrap();
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    let board: serde_json::Value =
        serde_json::from_str(map["data"]["ebpf-hello.json"].as_str().unwrap()).unwrap();
    let panels = board["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        for target in panel["targets"].as_array().unwrap() {
            assert!(
                target["expr"]
                    .as_str()
                    .is_some_and(|expression| !expression.is_empty()),
                "{panel}"
            );
        }
    }
    assert!(panels.len() >= 15);
}
