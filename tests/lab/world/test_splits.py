from codefend.lab.world.splits import photo_group, split_photos


def test_variants_of_a_photo_share_a_group() -> None:
    folder = "pack/usr/share/wallpapers/Kay/contents"
    assert photo_group(f"{folder}/images/1x1.png") == photo_group(f"{folder}/images_dark/2x3.jpg")
    assert photo_group("gnome/wood-d.webp") == photo_group("gnome/wood-l.webp")
    assert photo_group("a/one.jpg") != photo_group("a/two.jpg")


def test_no_group_stands_in_two_splits_and_none_is_lost() -> None:
    paths = [f"w/N{number // 2}/contents/{number}.png" for number in range(60)]
    splits = split_photos(paths)
    assert sorted(index for share in splits.values() for index in share) == list(range(60))
    groups = [{photo_group(paths[index]) for index in share} for share in splits.values()]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert not groups[1] & groups[2]
