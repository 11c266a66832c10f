use super::*;

fn strict(root: Option<&Path>) -> SourcePolicy {
    let files_below = root.map(Path::to_owned);
    SourcePolicy::Untrusted(SourceRules { files_below, private_addresses: false })
}

#[test]
fn special_addresses_are_not_public() {
    let special = [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "0.0.0.0",
        "100.64.0.1",
        "198.18.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fd00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "64:ff9b::a00:1",
        "2002:7f00:1::",
        "2001:db8::1",
        "2001::1",
    ];
    for text in special {
        assert!(!is_public(text.parse().unwrap()), "{text}");
    }
    for text in ["1.1.1.1", "100.128.0.1", "172.32.0.1", "2606:4700::1", "::ffff:8.8.8.8"] {
        assert!(is_public(text.parse().unwrap()), "{text}");
    }
}

#[test]
fn names_of_this_machine_are_refused_to_strangers() {
    assert!(strict(None).resolve("localhost:80").is_err());
    assert!(strict(None).resolve("127.0.0.1:80").is_err());
    assert!(SourcePolicy::Trusted.resolve("127.0.0.1:80").is_ok());
}

#[test]
fn files_lie_below_the_folder_even_through_links() {
    let folder = tempfile::tempdir().unwrap();
    let (root, outside) = (folder.path().join("open"), folder.path().join("secret.png"));
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("a.png"), "a").unwrap();
    std::fs::write(&outside, "b").unwrap();
    let policy = strict(Some(&root));
    assert!(policy.file(root.join("a.png")).is_ok());
    for path in [outside.clone(), root.join("../secret.png"), root.join("none.png")] {
        assert!(matches!(policy.file(path), Err(FetchError::ForbiddenFile { .. })));
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&outside, root.join("link.png")).unwrap();
        assert!(policy.file(root.join("link.png")).is_err());
    }
    assert!(strict(None).file(root.join("a.png")).is_err());
    assert!(matches!(policy.path(&root.join("a.png")), Err(FetchError::ForbiddenPath { .. })));
    assert!(SourcePolicy::Trusted.path(&outside).is_ok());
}
