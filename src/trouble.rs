//! Everything that can be wrong, each with a short fixed word and what to do about it.
//!
//! The word is what logs, metrics and reports call it, and the heading of its entry in
//! `docs/operations.md`.

use std::fmt;

macro_rules! kinds {
    ($($(#[doc = $meaning:literal])+ $kind:ident $word:literal $remedy:literal)+) => {
        /// What is wrong, by kind.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[doc = $meaning])+ $kind,)+
        }

        impl Kind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$kind,)+];

            /// The word for it in logs, metrics and reports.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => $word,)+
                }
            }

            /// What a person can do about it.
            #[must_use]
            pub fn remedy(self) -> &'static str {
                match self {
                    $(Self::$kind => $remedy,)+
                }
            }
        }
    };
}

kinds! {
    // --- A fetch ---------------------------------------------------------------------------
    /// Nobody found an identity.
    NoCredentials "no_credentials"
        "give this process an identity: a role of the machine or the pod, a key file, a profile"
    /// The identity is no good.
    BadCredentials "bad_credentials"
        "renew the key, token or profile that the message speaks of, or log in again (`gcloud auth application-default login`, `aws sso login`)"
    /// Somebody else than the settings expect.
    WrongPrincipal "wrong_principal"
        "give this process the identity that is expected, or mend the expectation in the settings"
    /// A program that gives no credential.
    Program "program_failed"
        "run the program by hand, as the same user, and mend what it says"
    /// The identity is known and may not.
    Denied "denied"
        "allow this identity what the message names (ECR: ecr:GetAuthorizationToken on `*`), or replace a key that it calls invalid"
    /// The service said no, without saying whether for good.
    Refused "refused"
        "see whether the key or account is still valid; it is asked again by itself"
    /// Too many calls.
    Throttled "throttled"
        "nothing, if it passes; else look for what else calls this service from the same account"
    /// The service failed on its side.
    ServerError "server_error"
        "nothing: it is asked again by itself; see the cloud's status page if it lasts"
    /// No connection.
    Unreachable "unreachable"
        "see whether this machine reaches the service: DNS, routes, firewall, certificates"
    /// No answer in time.
    Timeout "timeout"
        "see whether something on the way swallows packets; a slow issuer needs a longer `fetch_timeout`"
    /// An answer that cannot be used.
    BadAnswer "bad_answer"
        "see whether the endpoint is the cloud's own, and not a proxy's sign-in page"
    /// A token that the registry does not take.
    Rejected "rejected"
        "allow this identity to use the registry, or give it the identity of the registry's account"
    /// A token that had expired when it came.
    ExpiredAnswer "expired_answer"
        "set this machine's clock"

    // --- A credential ----------------------------------------------------------------------
    /// None was fetched yet.
    NothingYet "nothing_yet"
        "nothing, if it was just started; else see what the last fetch met with"
    /// It has expired.
    Expired "expired"
        "see what the last fetch met with, or what the target's last write did"
    /// It does not stand in the file.
    Absent "absent"
        "see what the target's last write met with; it is put back by itself"

    // --- A target --------------------------------------------------------------------------
    /// Another program was writing it.
    Busy "busy"
        "nothing, if it passes; else look for the program that holds the file open"
    /// A single file that is mounted.
    MountPoint "mount_point"
        "mount the folder instead of the file, or set `write = \"in-place\"` for the target"
    /// Not there, and in place it cannot be made.
    Missing "missing"
        "make an empty file, then mount it"
    /// In place, without a lease.
    NoLease "no_lease"
        "run as the file's owner, or mount its folder"
    /// In place, without a state folder.
    NoState "no_state"
        "set `state` to a folder that this process may write to"
    /// As root, or by a group's leave: a link of somebody's to what is not theirs.
    ForeignLink "foreign_link"
        "name the file itself in the settings, or give the link to root"
    /// As root, or by a group's leave: somebody's file in a shared folder.
    ForeignFile "foreign_file"
        "set `owner` for the target if the file is right, or remove it"
    /// By a group's leave: a folder of another group.
    ForeignFolder "foreign_folder"
        "give the folder to the target's group, or mend the link that led there and restart"
    /// A folder, a pipe, a device.
    NotAFile "not_a_file"
        "name a regular file in the settings"
    /// Links that lead to each other.
    LinkCircle "link_circle"
        "mend the links, or name the file itself"
    /// Nobody has a file of this size.
    TooLarge "too_large"
        "see what writes such a file, and remove what does not belong there"
    /// A file that nobody may replace.
    Immutable "immutable"
        "`lsattr` shows the flag, `chattr -ia` takes it away"
    /// A permission is missing.
    PermissionDenied "permission_denied"
        "let the user that freshcreds runs as go into the folder, write there, and read the file"
    /// A file system that is mounted read-only.
    ReadOnly "read_only"
        "mount the folder writable"
    /// No space, or a quota is used up.
    DiskFull "disk_full"
        "make room: the old file stays until there is some"
    /// Something else that the system refused.
    Io "io"
        "see what the system says in the message, and in its own log"
    /// No answer from the disk.
    Unseen "unseen"
        "see whether the disk hangs (network file system, failing device); it is looked at again by itself"
    /// Not a document of docker's.
    Invalid "invalid"
        "mend the file at the line and column that the message names, or move it away"
    /// Others write it all the time.
    Contended "contended"
        "look for the program that rewrites the file in a loop"
    /// Another program takes our entries away again and again.
    TugOfWar "tug_of_war"
        "stop the second daemon or cron job that writes the same registries"
    /// A credential helper failed.
    Helper "helper"
        "try the helper by hand, as the user that freshcreds runs as"
    /// The next try is not due.
    NotNow "not_now"
        "nothing: it is tried again by itself"

    // --- What is in a reader's way ---------------------------------------------------------
    /// `credsStore` is set.
    CredsStore "creds_store"
        "remove `credsStore` from the file, or set `hidden` in a [[target]] of the settings"
    /// `credHelpers` names the registry.
    CredHelper "cred_helper"
        "remove the line from `credHelpers`, or set `hidden` in a [[target]] of the settings"
    /// An entry of somebody's that docker cannot decode.
    UnreadableEntry "unreadable_entry"
        "log that registry out and in again, or remove its entry"
    /// A value of a type that docker refuses.
    WrongType "wrong_type"
        "mend the value that the message names: docker refuses the whole file"
    /// `DOCKER_AUTH_CONFIG` names the registry.
    Environment "environment"
        "unset DOCKER_AUTH_CONFIG where docker runs"
    /// An entry for a part of the registry.
    PathKey "path_key"
        "remove the entry of the path, if it is not meant"
    /// Another spelling of the host.
    Twin "twin"
        "remove the entry with `https://`, or set `hidden = \"take-over\"` for the target"
    /// Not readable for who should.
    NoPermission "no_permission"
        "set `owner` for the target"

    // --- A cluster -------------------------------------------------------------------------
    /// No way to the cluster.
    ClusterAccess "cluster_access"
        "mend the kubeconfig or what it names; in a pod, see whether the service account's token is mounted"
    /// Nobody answers there.
    ClusterUnreachable "cluster_unreachable"
        "see whether this machine or pod reaches the API server: address, network policies, certificates"
    /// Not allowed there.
    ClusterDenied "cluster_denied"
        "allow this service account what the message names (docs/kubernetes.md has the rules)"
    /// It does not take what it was given.
    ClusterRefused "cluster_refused"
        "see what the message names: an admission policy, a quota, a selector that means nothing"
    /// It has too much to do.
    ClusterBusy "cluster_busy"
        "nothing: it is asked again by itself; see what else calls the API server if it lasts"
    /// A namespace that is named is not there.
    NoNamespace "no_namespace"
        "make the namespace, or take its name out of the settings"
    /// Somebody else's Secret has the name of ours.
    ForeignSecret "foreign_secret"
        "remove or rename that Secret, or give ours another `name`"
    /// Somebody has made a Secret of ours immutable.
    ImmutableSecret "immutable_secret"
        "delete that Secret: it is made again at once"
    /// No Secret can be this large.
    SecretTooLarge "secret_too_large"
        "name fewer `registries` for it, and the others in a second [[image_pull_secret]]"

    // --- Others ----------------------------------------------------------------------------
    /// The newest settings mean nothing.
    BadSettings "bad_settings"
        "mend the settings file, and send SIGHUP"
    /// A hook's program failed, or could not be run.
    HookFailed "hook_failed"
        "run the command by hand, as the user that freshcreds runs as, or see which process the PID file names; it runs again after the next change, or at SIGUSR1"
    /// A hook's program took too long.
    HookTimeout "hook_timeout"
        "see what the command waits for, or give the hook a longer `timeout`"
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_has_a_word_of_its_own_and_something_to_do() {
        let words: BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
        assert_eq!(words.len(), Kind::ALL.len());
        for kind in Kind::ALL {
            let word = kind.as_str();
            assert!(word.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{word}");
            assert!(!kind.remedy().ends_with('.'), "{word}");
        }
    }
}
