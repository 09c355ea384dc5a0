//! File transfers with others who keep no protocol, at random.

#[path = "hostile/check.rs"]
mod check;

use proptest::prelude::*;

/// Commands that list in order more often than chance would, then end the list, then send content.
fn nearly_honest() -> impl Strategy<Value = Vec<u8>> {
    let names = prop::sample::subsequence((0..16u8).collect::<Vec<_>>(), 0..8);
    let kinds = prop::collection::vec((0..12u8, any::<u8>()), 8);
    let content = prop::collection::vec((5..9u8, 0..10u8, any::<u8>()), 0..8);
    (names, kinds, any::<bool>(), content).prop_map(|(names, kinds, end, content)| {
        let list = names.into_iter().zip(kinds).flat_map(|(name, (kind, b))| [kind, name, b]);
        let end = end.then_some([4, 0, 0]).into_iter().flatten();
        list.chain(end).chain(content.into_iter().flat_map(|(kind, id, b)| [kind, id, b])).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn receivers_survive_any_sender(bytes in nearly_honest()) {
        check::receiving(&bytes).ok();
    }

    #[test]
    fn receivers_survive_noise(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        check::receiving(&bytes).ok();
    }

    #[test]
    fn senders_survive_any_receiver(bytes in nearly_honest()) {
        let tree = check::tree();
        // Who only asks for files, and then goes, did not say that it has all of them.
        prop_assert!(check::sending(&bytes, tree.path()).is_err() || bytes.chunks(3).any(|c| c[0] % 12 == 8));
    }
}

#[test]
fn an_honest_sender_of_commands_is_heard() {
    // A directory, a file of 5 bytes, the end; content, its end. The sender then goes without a last word.
    let bytes = [0, 0, 0, 1, 1, 5, 4, 0, 0, 5, 1, 5, 6, 1, 0];
    assert_eq!(check::packets_of(&bytes).len(), 5);
    let outcome = check::receiving(&bytes);
    assert!(outcome.is_err() || outcome.is_ok_and(|entries| entries == 2));
}
