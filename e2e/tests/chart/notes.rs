//! What `helm install` says when it is done.

use std::fs;

use ebpf_hello_e2e::chart::{RELEASE, helm, repository};

use super::rendering::NATS;

fn notes(flags: &[&str]) -> String {
    let install = [
        "install",
        RELEASE,
        "helm/ebpf-hello",
        "--namespace",
        RELEASE,
        "--dry-run=client",
    ];
    let output = helm(install.iter().chain(flags));
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{flags:?}: {complained}");
    let told = String::from_utf8(output.stdout).unwrap();
    told.split_once("\nNOTES:\n").unwrap().1.to_owned()
}

/// The commands of the paragraph that begins so: lines that are indented and no comment.
fn commands<'a>(notes: &'a str, heading: &str) -> Vec<&'a str> {
    let (_, rest) = notes
        .split_once(heading)
        .unwrap_or_else(|| panic!("no {heading:?} in {notes}"));
    let lines = rest.lines().skip_while(|line| !line.starts_with("  "));
    lines
        .take_while(|line| line.starts_with("  "))
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .collect()
}

#[test]
fn the_next_three_commands_are_said_as_they_are_typed() {
    let next = |flags: &[&str]| {
        let notes = notes(flags);
        commands(&notes, "\nNext:\n").join("\n")
    };
    let expected = |agents: &str, collector: &str| {
        [
            &format!("kubectl rollout status -n ebpf-hello daemonset/{agents}"),
            "helm test -n ebpf-hello ebpf-hello",
            &format!("kubectl exec -n ebpf-hello {collector} -- ebpf-hello observe -f"),
        ]
        .join("\n")
    };
    let agents = "ebpf-hello-agent";
    assert_eq!(
        next(&[]),
        expected(agents, "statefulset/ebpf-hello-collector")
    );
    assert_eq!(
        next(NATS),
        expected(agents, "deployment/ebpf-hello-collector")
    );
    assert_eq!(
        next(&["--set=fullnameOverride=observer"]),
        expected("observer-agent", "statefulset/observer-collector")
    );
}

#[test]
fn what_an_uninstall_leaves_is_said_with_the_command_that_removes_it() {
    const HEADING: &str = "`helm uninstall` leaves";
    let definitions =
        "kubectl delete crd syscallfilters.ebpf-hello.dev clustersyscallfilters.ebpf-hello.dev";
    let test = "kubectl delete pod -n ebpf-hello ebpf-hello-test --ignore-not-found";
    let node = "rm -r /var/lib/ebpf-hello";
    let claim = "kubectl delete pvc -n ebpf-hello store-ebpf-hello-collector-0";
    let stream = "nats stream rm EBPF_HELLO";
    let certificate = "kubectl delete secret -n ebpf-hello ebpf-hello-collector-server";
    let persistence = "--set=collector.persistence.enabled=true";
    let cert_manager = "--set=tls.certManager.enabled=true,tls.certManager.issuerRef.name=issuer,tls.server.caConfigMap=trusted";
    let guide = fs::read_to_string(repository().join("docs/INSTALL.md")).unwrap();
    for (flags, expected) in [
        (&[][..], &[definitions, test, node][..]),
        (&["--set=agent.state.type=emptyDir"], &[definitions, test]),
        (&["--set=test.enabled=false"], &[definitions, node]),
        (&[persistence], &[definitions, claim, test, node]),
        (NATS, &[definitions, stream, test, node]),
        (&[cert_manager], &[definitions, certificate, test, node]),
    ] {
        let notes = notes(flags);
        assert_eq!(commands(&notes, HEADING), expected, "{flags:?}");
        for command in expected {
            assert!(guide.contains(command), "docs/INSTALL.md: no {command}");
        }
    }
}
