//! Values that cannot work are refused with a sentence, before anything reaches a cluster.

use ebpf_hello_e2e::chart::render_text;

#[track_caller]
fn refused(values: &str, sentence: &str) {
    let flag = format!("--set{values}");
    match render_text(&[&flag]) {
        Ok(_) => panic!("{values} is taken"),
        Err(error) => assert!(
            error.contains(sentence),
            "{values}: expected {sentence:?}, got: {error}"
        ),
    }
}

#[test]
fn combinations_that_cannot_work() {
    refused(
        "=collector.replicas=2",
        "collector.replicas is 2, and hub.nats.url is empty: each collector would keep the events of some nodes only",
    );
    refused(
        "=hub.nats.url=nats://n:4222,collector.persistence.enabled=true",
        "collector.persistence.enabled and hub.nats.url exclude each other",
    );
    refused(
        "=tls.certManager.enabled=true,tls.server.caConfigMap=ca",
        "tls.certManager.issuerRef.name is missing",
    );
    refused(
        "=tls.server.existingSecret=mine",
        "tls.server.caConfigMap is missing",
    );
    refused(
        "=tls.certManager.enabled=true,tls.server.existingSecret=mine,tls.server.caConfigMap=ca",
        "tls.certManager.enabled and tls.server.existingSecret are two sources of one certificate",
    );
    refused(
        "-json=filters=[{\"kind\":\"ClusterSyscallFilter\",\"name\":\"a\",\"namespace\":\"shop\",\"spec\":{}}]",
        "filters[0] \"a\": a ClusterSyscallFilter has no namespace",
    );
}

#[test]
fn the_schema_names_the_value_that_is_wrong() {
    for (values, place) in [
        ("=colector.replicas=2", "colector"),
        ("=collector.replicas=many", "/collector/replicas"),
        ("=agent.tables=0", "/agent/tables"),
        ("=agent.spoolSize=big", "/agent/spoolSize"),
        ("=agent.state.type=pvc", "/agent/state/type"),
        ("=agent.capabilities={ALL}", "/agent/capabilities/0"),
        ("=agent.processEvents=maybe", "/agent/processEvents"),
        ("=image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("=image.digest=abc", "/image/digest"),
        ("=hub.nats.url=http://nats", "/hub/nats/url"),
        ("=log.format=xml", "/log/format"),
        ("=fullnameOverride=1.2", "/fullnameOverride"),
        ("=agent.priorityQuota=on", "/agent/priorityQuota"),
        (
            "-json=filters=[{\"kind\":\"Filter\",\"name\":\"a\",\"spec\":{}}]",
            "/filters/0/kind",
        ),
        (
            "-json=filters=[{\"kind\":\"SyscallFilter\",\"spec\":{}}]",
            "/filters/0",
        ),
    ] {
        refused(values, place);
    }
}
