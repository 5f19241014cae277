"""Which files of a folder make up the dataset: names in, names out."""

import pytest

from finetune_operator.formats.invalid import Invalid
from finetune_operator.formats.layout import Chosen, choose_pictures, choose_tables

TABLES = [
    (["data.jsonl", "test.jsonl"], ["data.jsonl"]),
    (["my_train.csv", "my_test.csv"], ["my_train.csv"]),
    (["alpaca-train.jsonl", "alpaca-dev.jsonl"], ["alpaca-train.jsonl"]),
    (["training.csv", "eval.csv", "holdout.csv", "held_out.csv", "valid.csv"], ["training.csv"]),
    (["TRAIN.CSV", "Test.CSV"], ["TRAIN.CSV"]),
    (["trainset.csv", "testset.csv"], ["trainset.csv"]),
    (["myTrainData.csv", "myTestData.csv"], ["myTrainData.csv"]),
    (["part-0.jsonl", "part-1.jsonl", "val.jsonl"], ["part-0.jsonl", "part-1.jsonl"]),
    (["train-00000-of-00002-ab1.parquet", "train-00001-of-00002-cd2.parquet", "test-0.parquet"], None),
    (["train/0000.parquet", "train/0001.parquet", "validation/0000.parquet"], None),
    (["test.jsonl", "data/train.jsonl"], ["data/train.jsonl"]),
    (["test.jsonl"], ["test.jsonl"]),
    (["latest.csv", "contest.csv", "devices.csv"], ["contest.csv", "devices.csv", "latest.csv"]),
    (["a.jsonl", "b.jsonl"], ["a.jsonl", "b.jsonl"]),
    (["2023/a.jsonl", "2024/a.jsonl"], ["2023/a.jsonl", "2024/a.jsonl"]),
    (["dataset_infos.json", "data/train-0.parquet"], ["data/train-0.parquet"]),
    (["a.png", "a.txt", "a.json", "metadata.json"], []),
    (["metadata.json"], ["metadata.json"]),
]  # fmt: skip


@pytest.mark.parametrize(("names", "expected"), TABLES)
def test_held_out_rows_are_never_trained_on_beside_others(names: list[str], expected: list[str] | None) -> None:
    expected = [name for name in names if "train" in name] if expected is None else expected
    assert list(choose_tables(names, "the dataset").names) == expected


@pytest.mark.parametrize(
    "names",
    [
        ["data/train_sft-0.parquet", "data/train_gen-0.parquet"],
        ["train_sft-00000-of-00002.parquet", "train_sft-00001-of-00002.parquet", "train_gen-00000-of-00001.parquet"],
        ["en/train-0.parquet", "fr/train-0.parquet"],
        ["en/a.jsonl", "fr/a.jsonl"],
        ["test.jsonl", "validation.jsonl"],
        ["train.csv", "train_extra.csv"],
    ],
)
def test_of_several_splits_or_configurations_none_is_taken_without_asking(names: list[str]) -> None:
    with pytest.raises(Invalid, match=r"D holds several splits or configurations \(.*name one file or folder of them"):
        choose_tables(names, "D")


def test_what_is_left_out_is_known() -> None:
    assert choose_tables(["data.csv", "test.csv"], "D") == Chosen(("data.csv",), ("test.csv",))
    assert choose_tables(["test.csv", "more/data.csv"], "D") == Chosen(("more/data.csv",), ("test.csv",))
    assert choose_tables(["test.csv"], "D").held_out


def test_a_table_with_nothing_that_is_needed_hides_no_other() -> None:
    def serves(name: str) -> bool:
        return name not in ("prompts.csv", "info.json")

    assert choose_tables(["prompts.csv", "data/a.jsonl"], "D", serves) == Chosen(("data/a.jsonl",), ("prompts.csv",))
    assert choose_tables(["prompts.csv", "b.jsonl"], "D", serves) == Chosen(("b.jsonl",), ("prompts.csv",))
    assert choose_tables(["prompts.csv", "info.json", "a.png"], "D", serves) == Chosen()
    assert choose_tables(["prompts.csv"], "D", serves).names == ("prompts.csv",)  # its columns are in the message
    assert choose_tables(["metadata.json", "a.png"], "D", serves).names == ("metadata.json",)


def test_a_folder_of_save_to_disk_is_called_one() -> None:
    names = ["dataset_dict.json", "train/state.json", "train/dataset_info.json", "train/data-00000-of-00001.arrow"]
    with pytest.raises(Invalid, match=r"Arrow files, as `save_to_disk` .* write parquet instead"):
        choose_tables(names, "D")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train/a.png", "test/b.png", "other/c.png"], ["train/a.png"]),
        (["train2017/a.png", "val2017/b.png"], ["train2017/a.png"]),
        (["train_images/a.png", "test_images/b.png"], ["train_images/a.png"]),
        (["cats/a.png", "dogs/b.png", "test/c.png"], ["cats/a.png", "dogs/b.png"]),
        (["train.png", "cat.png", "test.png"], ["cat.png", "test.png", "train.png"]),
        (["10_train/a.png", "5_cat/b.png"], ["10_train/a.png", "5_cat/b.png"]),
    ],
)
def test_pictures_are_chosen_by_their_folders_and_not_by_what_they_show(names: list[str], expected: list[str]) -> None:
    assert list(choose_pictures(names, "D").names) == expected


def test_pictures_of_several_held_out_splits_are_refused() -> None:
    with pytest.raises(Invalid, match="several splits"):
        choose_pictures(["test/a.png", "validation/b.png"], "D")
