//! Errors to exit statuses and hints.
//!
//! Spec: docs/guide/exit-status.md.

use std::process::ExitCode;

use knarr_bootstrap::BootstrapError;
use knarr_factory::FactoryError;
use knarr_factory::sign::SignError;
use knarr_mirror::MirrorError;
use knarr_oci::OciError;
use knarr_pgp::PgpError;
use knarr_recipe::RecipeError;
use knarr_registry::RegistryError;
use knarr_registry::server::ServerError;
use knarr_store::StoreError;
use knarr_tree::TreeError;

use crate::ui::Ui;

/// Nothing went wrong, and all was said: the exit status is the answer.
#[derive(Debug)]
pub(crate) struct Answer(pub u8);

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "exit status {}", self.0)
    }
}

impl std::error::Error for Answer {}

/// What a shell says of a program that a closed pipe ended.
const READER_LEFT: u8 = 141;
/// An image has newer packages.
pub(crate) const UPDATES: u8 = 91;
/// An image is not what its packages and steps made it.
pub(crate) const DIFFERS: u8 = 92;

/// Tells the error and answers with its exit status.
pub(crate) fn report(error: &anyhow::Error, ui: &Ui) -> ExitCode {
    ui.clear();
    if let Some(Answer(status)) = error.downcast_ref::<Answer>() {
        return ExitCode::from(*status);
    }
    if reader_left(error) {
        return ExitCode::from(READER_LEFT);
    }
    ui.error(&knarr_bootstrap::error_chain(error.as_ref()));
    let (status, hint) = match classify(error) {
        (status, _) if status != 13 && is_of(error, std::io::ErrorKind::StorageFull) => (13, None),
        known => known,
    };
    if let Some(hint) = hint {
        ui.hint(hint);
    }
    ExitCode::from(status)
}

fn classify(error: &anyhow::Error) -> (u8, Option<&'static str>) {
    if error.is::<crate::client::ApiFailure>() {
        return (1, None);
    }
    if let Some(error) = error.downcast_ref::<BootstrapError>() {
        return classify_bootstrap(error);
    }
    if let Some(error) = error.downcast_ref::<FactoryError>() {
        return classify_factory(error);
    }
    if let Some(error) = error.downcast_ref::<StoreError>() {
        return classify_store(error);
    }
    if let Some(error) = error.downcast_ref::<RegistryError>() {
        return classify_registry(error);
    }
    if let Some(error) = error.downcast_ref::<ServerError>() {
        return classify_server(error);
    }
    if error.downcast_ref::<RecipeError>().is_some() {
        return (80, Some("`knarr recipe schema` says what there may be"));
    }
    if error.downcast_ref::<OciError>().is_some() {
        return (86, None);
    }
    if error.is::<crate::recipe::Exists>() {
        return (11, Some("name another file, or remove this one"));
    }
    error.downcast_ref::<MirrorError>().map_or((1, None), classify_mirror)
}

/// Whether the system gave this answer somewhere below.
fn is_of(error: &anyhow::Error, kind: std::io::ErrorKind) -> bool {
    error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>()).any(|cause| cause.kind() == kind)
}

/// Whether it failed only because nobody reads standard output any more: who ended it knows, as with a `SIGPIPE`.
fn reader_left(error: &anyhow::Error) -> bool {
    let elsewhere =
        |cause: &(dyn std::error::Error + 'static)| cause.is::<RegistryError>() || cause.is::<MirrorError>();
    is_of(error, std::io::ErrorKind::BrokenPipe) && !error.chain().any(elsewhere)
}

fn classify_factory(error: &FactoryError) -> (u8, Option<&'static str>) {
    use FactoryError as F;
    match error {
        F::Recipe(_) => (80, Some("`knarr recipe schema` says what there may be")),
        F::Run { .. } => (81, None),
        F::Verify { missing, .. } if !missing.is_empty() => {
            (82, Some("`knarr build --fix` finds out what the recipe must keep"))
        }
        F::Verify { .. } => (82, Some("--no-verify builds the image all the same, for a look at it")),
        F::Request(_) | F::Context { .. } | F::NoAccount { .. } | F::BadAccount { .. } | F::Stage { .. } => {
            (83, None)
        }
        F::NoFile { .. } => (84, Some("`knarr image files` lists what is there")),
        F::ContextChanged { .. } => (83, None),
        F::Sign(SignError::NotSigned { .. }) => (93, Some("`knarr image sign` signs it")),
        F::Sign(SignError::NotVerified { .. }) => (93, None),
        F::Sign(SignError::KeyExists { .. }) => (11, Some("--output names another file")),
        F::Sign(_) => (94, None),
        F::NoOrigin { .. } => (95, None),
        F::Bootstrap(error) => classify_bootstrap(error),
        F::Mirror(error) => classify_mirror(error),
        F::Store(error) => classify_store(error),
        F::Linux(knarr_linux::LinuxError::Interrupted) => (130, None),
        F::Linux(_) => (21, None),
        F::File { source, .. } | F::Tree(TreeError::Path { source, .. } | TreeError::File { source, .. })
            if source.kind() == std::io::ErrorKind::StorageFull =>
        {
            (13, Some("free some room, or choose another place"))
        }
        F::File { .. } => (12, None),
        F::Tree(_) => (18, None),
        _ => (1, None),
    }
}

fn classify_store(error: &StoreError) -> (u8, Option<&'static str>) {
    use StoreError as S;
    match error {
        S::File { source, .. } | S::Tree(TreeError::Path { source, .. } | TreeError::Write(source))
            if source.kind() == std::io::ErrorKind::StorageFull =>
        {
            (13, Some("`knarr image prune` makes room"))
        }
        S::File { .. } => (12, Some("--store names another place")),
        S::NoImage { .. } => (84, Some("`knarr images` shows all")),
        S::Ambiguous { .. } | S::NoPlatform { .. } => (84, None),
        S::Request(_) => (83, None),
        S::Oci(_) => (86, None),
        S::Linux(_) => (21, None),
        S::Interrupted => (130, None),
        _ => (85, None),
    }
}

fn classify_registry(error: &RegistryError) -> (u8, Option<&'static str>) {
    use RegistryError as R;
    match error {
        R::Refused { status: 401, .. } => (87, Some("`knarr login REGISTRY` says who you are")),
        R::Refused { .. } | R::Busy { .. } | R::Helper { .. } => (87, None),
        R::NotFound { .. } => (88, Some("`knarr search tags NAME` lists what there is")),
        R::Status { .. } | R::Answer { .. } | R::TooLarge { .. } | R::WrongBytes { .. } => (89, None),
        R::Stalled { .. } => (90, Some("--timeout sets how long to wait")),
        R::Connection { .. } => (
            90,
            Some(
                "is its name right, and this machine online? --ca names its own authority, --insecure accepts plain HTTP and any certificate",
            ),
        ),
        R::Incomplete { .. } => {
            (84, Some("pull it with --all-platforms, or push only --platform OS/ARCHITECTURE"))
        }
        R::Request(_) => (2, None),
        R::File { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => (13, None),
        R::File { .. } | R::BadFile { .. } => (12, None),
        R::Store(error) => classify_store(error),
        R::Oci(_) => (86, None),
        R::Interrupted => (130, None),
        _ => (1, None),
    }
}

fn classify_server(error: &ServerError) -> (u8, Option<&'static str>) {
    use ServerError as S;
    match error {
        S::Options(_) => (2, None),
        S::Exposed { .. } => (
            2,
            Some(
                "--tls-cert and --tls-key protect it; --insecure serves everybody who can reach it as it is",
            ),
        ),
        S::File { .. } | S::Tls { .. } | S::Htpasswd { .. } => (12, None),
        S::Listen { .. } => (54, Some("--listen names another address; port 0 takes any that is free")),
        S::Store(error) => classify_store(error),
        _ => (1, None),
    }
}

fn classify_bootstrap(error: &BootstrapError) -> (u8, Option<&'static str>) {
    use BootstrapError as B;
    match error {
        B::TargetExists { .. } => (11, Some("choose another target, or remove this one")),
        B::File { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            (12, Some("it must be yours to read, and its directory yours to write to"))
        }
        B::File { source, .. } | B::Tree(TreeError::Path { source, .. })
            if source.kind() == std::io::ErrorKind::StorageFull =>
        {
            (13, Some("free some room, or choose another place"))
        }
        B::File { .. } => (12, None),
        B::Script { .. } => (14, Some("--script-timeout and --variant extract help to find out more")),
        B::Hook { .. } => (15, None),
        B::BadHook { .. } => {
            (15, Some("hooks are copy-in, copy-out, upload, download, run, or a shell command"))
        }
        B::Unresolvable(_) => (16, None),
        B::BadLock { .. } | B::LockTooLarge { .. } => (17, None),
        B::LockDiffers { .. } => (17, Some("without --locked the lock is obeyed as it is")),
        B::Package { source, .. } => classify_bootstrap(source),
        B::Deb(_) | B::Tree(_) | B::EmptyControl | B::MissingControlField { .. } | B::WrongPackage { .. } => {
            (18, None)
        }
        B::FileConflict { .. } => (19, None),
        B::DeviceNode { .. } => (22, Some("run as root, or leave it out with --path-exclude")),
        B::TriggerLoop { .. } => (14, None),
        B::CannotRun { .. } => (
            20,
            Some(
                "install qemu-user-static (nothing must be set up), or use --variant extract, which runs nothing",
            ),
        ),
        B::NoKeys { .. } => (33, Some("add a Signed-By, or name the keys with --keyring")),
        B::Request(_) => (2, None),
        B::Linux(knarr_linux::LinuxError::Interrupted) => (130, None),
        B::Linux(_) => (21, None),
        B::Interrupted => (130, None),
        B::Mirror(error) => classify_mirror(error),
    }
}

fn classify_mirror(error: &MirrorError) -> (u8, Option<&'static str>) {
    use MirrorError as M;
    match error {
        M::UnknownSuite { .. } => (30, Some("`knarr suite ls` shows all")),
        M::BadSuite { .. } | M::BadSources { .. } | M::SourcesFile { .. } => (30, None),
        M::Untrusted { source, .. } => classify_trust(source),
        M::Keyring(_) => (31, None),
        M::Expired { .. } => {
            (38, Some("--insecure-allow-expired accepts it, and gives up protection against a frozen mirror"))
        }
        M::Rollback { .. } => (
            39,
            Some(
                "--insecure-allow-rollback accepts it, and gives up protection against an old state played back",
            ),
        ),
        M::FromTheFuture { .. } => (40, Some("set this machine's clock")),
        M::WrongSuite { .. } => (41, None),
        M::MissingComponent { .. } => (42, None),
        M::MissingArchitecture { .. } => (43, None),
        M::MissingIndex { .. } => (44, None),
        M::Format { .. } => (45, None),
        M::DigestMismatch { .. } => {
            (46, Some("the mirror may be in the middle of an update: try again later, or another mirror"))
        }
        M::TooLarge { .. } => (47, None),
        M::Truncated { .. } => (48, None),
        M::Status { .. } => (49, None),
        M::Stalled { .. } => (50, Some("--timeout sets how long to wait")),
        M::Connection { .. } => {
            (51, Some("is the mirror's name right, and this machine online? proxies come from http_proxy"))
        }
        M::Offline { .. } => (52, None),
        M::Cache { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            (13, Some("`knarr system prune` makes room in the cache"))
        }
        M::Cache { .. } => (53, Some("--cache-dir names another place")),
        M::Interrupted => (130, None),
        _ => (1, None),
    }
}

const fn classify_trust(error: &PgpError) -> (u8, Option<&'static str>) {
    match error {
        PgpError::BadSignature => (32, None),
        PgpError::NotPinned { .. } => (33, None),
        PgpError::UnknownKey { .. } => (33, Some("--keyring names the keys that may sign")),
        PgpError::KeyExpired { .. } | PgpError::SignatureExpired { .. } => (34, None),
        PgpError::KeyRevoked { .. } => (35, None),
        PgpError::WeakDigest { .. } => (36, None),
        PgpError::NoSignature | PgpError::Malformed { .. } => (37, None),
        _ => (31, None),
    }
}
