//! Names of containers from the links that the kubelet makes to their logs, before their status says them.
//!
//! Only names are read: `POD_NAMESPACE_CONTAINER-ID.log`. None of the three has an underscore.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{EventKind, RecursiveMode, Watcher as _, event::ModifyKind};
use tokio::{sync::mpsc, time::sleep};

use super::{Pods, pods::Link};

/// Time between attempts to find the folder.
const RETRY: Duration = Duration::from_secs(10);
/// Names that wait to be taken in; more are found by looking at the whole folder.
const QUEUE: usize = 1_024;
/// The folder is looked at as a whole so often, whatever inotify told.
const RESCAN: Duration = Duration::from_secs(60);

/// Follows the links in a folder, for ever; one that is not there is waited for.
pub async fn follow_links(directory: PathBuf, pods: Arc<Pods>) {
    let mut told = None;
    loop {
        if let Err(error) = follow(&directory, &pods).await {
            let error = error.to_string();
            if told.as_ref() != Some(&error) {
                tracing::warn!(
                    directory = %directory.display(), error,
                    "no links to containers' logs: their names come with the pods' status"
                );
                told = Some(error);
            }
        }
        sleep(RETRY).await;
    }
}

/// Follows them until the folder goes.
async fn follow(directory: &Path, pods: &Pods) -> io::Result<()> {
    let (names, mut changed) = mpsc::channel(QUEUE);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Whatever is no name, or finds no room, is found in the folder.
        let _ = match event {
            Ok(event) if is_new(event.kind) && !event.need_rescan() => event
                .paths
                .into_iter()
                .try_for_each(|path| names.try_send(Some(path))),
            Ok(event) if !event.need_rescan() && !matches!(event.kind, EventKind::Remove(_)) => {
                Ok(())
            }
            _ => names.try_send(None),
        };
    })
    .map_err(io::Error::other)?;
    // Before it is read: no link comes in between.
    watcher
        .watch(directory, RecursiveMode::NonRecursive)
        .map_err(io::Error::other)?;
    loop {
        for entry in fs::read_dir(directory)?.flatten() {
            take(&entry.path(), pods);
        }
        let rescan = sleep(RESCAN);
        tokio::pin!(rescan);
        loop {
            tokio::select! {
                name = changed.recv() => match name {
                    Some(Some(path)) => take(&path, pods),
                    Some(None) if directory.is_dir() => {}
                    _ => return Err(io::Error::other("the folder is gone")),
                },
                () = &mut rescan => break,
            }
        }
    }
}

fn is_new(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(_))
    )
}

fn take(path: &Path, pods: &Pods) {
    let name = path.file_name().and_then(|name| name.to_str());
    if let Some((id, link)) = name.and_then(link) {
        pods.link(id, link);
    }
}

/// `POD_NAMESPACE_CONTAINER-ID.log`.
fn link(name: &str) -> Option<(String, Link)> {
    let name = name.strip_suffix(".log")?;
    let mut parts = name.split('_');
    let (pod, namespace, rest) = (parts.next()?, parts.next()?, parts.next()?);
    let (container, id) = rest.rsplit_once('-')?;
    let is_whole = [pod, namespace, container, id]
        .iter()
        .all(|part| !part.is_empty());
    (is_whole && parts.next().is_none()).then(|| {
        let link = Link {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            container: container.to_owned(),
        };
        (id.to_owned(), link)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Pod;

    #[test]
    fn a_link_is_read_from_its_end() {
        let (id, found) = link("cart-0_shop_web-1-ab12.log").unwrap();
        let expected = Link {
            namespace: "shop".into(),
            pod: "cart-0".into(),
            container: "web-1".into(),
        };
        assert_eq!((id.as_str(), found), ("ab12", expected));
        for other in [
            "",
            ".log",
            "a_b_c.log",
            "a_b_c-.log",
            "_b_c-d.log",
            "a_b_c-d_e.log",
            "a_b_c-d",
        ] {
            assert_eq!(link(other), None, "{other}");
        }
    }

    #[tokio::test]
    async fn links_are_known_that_were_there_and_that_come() {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("containers");
        let pods = Arc::new(Pods::default());
        fs::create_dir(&folder).unwrap();
        let make = |id: &str| {
            let name = format!("cart-0_shop_web-{id}.log");
            std::os::unix::fs::symlink("/nowhere", folder.join(name)).unwrap();
        };
        make("a1");
        let mut changes = pods.changes();
        let following = tokio::spawn(follow_links(folder.clone(), pods.clone()));
        let pod = Pod {
            namespace: "shop".into(),
            name: "cart-0".into(),
            ..Pod::default()
        };
        for id in ["a1", "b2"] {
            tokio::time::timeout(Duration::from_secs(10), changes.changed())
                .await
                .unwrap()
                .unwrap();
            let found = pods.container(&pod, id).unwrap();
            assert_eq!(found.name, "web", "{id}");
            if id == "a1" {
                make("b2");
            }
        }
        following.abort();
    }
}
