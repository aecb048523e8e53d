pub(crate) fn run(_: &TopArgs) -> anyhow::Result<()> {
    Ok(())
}
#[derive(Debug, clap::Args)]
pub(crate) struct TopArgs {}
