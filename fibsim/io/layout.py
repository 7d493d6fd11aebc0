"""Which files of a folder are which channel."""

import dataclasses
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from fibsim.errors import InputError, counted
from fibsim.io._files import natural_key, require_exists, suggestion
from fibsim.io.images import IMAGE_SUFFIXES, ImageInfo, is_image_file, probe_image
from fibsim.io.names import detector_of_name, is_label_name, kev_of_name, name_template

__all__ = ["ChannelFiles", "Layout", "find_layout"]

_NNUNET = re.compile(r"(.+)_(\d{4})")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChannelFiles:
    """The files of one channel.

    Attributes:
        title: how messages name the channel.
        images: its files, in order of slices.
        index: which channel of the file it is.
        label: the text that may state voltage and detector.
        label_source: what that text is, for provenance.
        file: how ``stack.yaml`` refers to it; ``None`` if by its place in the list.
    """

    title: str
    images: tuple[ImageInfo, ...]
    index: int = 0
    label: str = ""
    label_source: str = "file name"
    file: str | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(slice, y, x)"""
        _, _, rows, columns = self.images[0].shape
        return sum(image.shape[1] for image in self.images), rows, columns


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """How a path was understood.

    Attributes:
        name: short name of the data set.
        form: the kind of stack, in words.
        yaml_path: where a ``stack.yaml`` for it belongs.
        channels: its channels, in order.
        ignored: names of entries that were left out without more ado (labels, other files).
        warnings: sentences for the user.
    """

    name: str
    form: str
    yaml_path: Path
    channels: tuple[ChannelFiles, ...]
    ignored: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def _stem(path: Path) -> str:
    # The suffix of a folder called 1.8kV is part of its voltage.
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        return path.name
    return path.stem.removesuffix(".ome")


def _listed(names: Iterable[str], most: int = 6) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _entries(folder: Path) -> list[Path]:
    try:
        found = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(
            f"{folder} cannot be listed ({error.strerror}); change its permissions."
        ) from error
    return sorted(found, key=lambda entry: natural_key(entry.name))


# --- nnU-Net ---------------------------------------------------------------------------------


def _nnunet_channels(folder: Path) -> dict[int, str] | None:
    """Channel names of a ``dataset.json`` in the folder or the one above it."""
    for file in (folder / "dataset.json", folder.parent / "dataset.json"):
        if not file.is_file():
            continue
        try:
            entries = json.loads(file.read_text(encoding="utf-8"))
            named = entries.get("channel_names", entries.get("modality"))
            if named is None:
                continue
            return {int(index): str(name) for index, name in named.items()}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise InputError(
                f"{file} cannot be used ({error}), expected JSON with channel_names such as "
                '{"0": "1kV SE"}; correct or remove it.'
            ) from error
    return None


def _nnunet_cases(folder: Path) -> dict[str, dict[int, Path]]:
    cases: dict[str, dict[int, Path]] = defaultdict(dict)
    for entry in _entries(folder):
        match = _NNUNET.fullmatch(_stem(entry))
        if match and is_image_file(entry) and entry.is_file():
            cases[match[1]][int(match[2])] = entry
    return cases


def _nnunet_layout(folder: Path, case: str | None) -> Layout | None:
    """One case of an nnU-Net folder; ``None`` if the folder is not one."""
    named = _nnunet_channels(folder)
    if named is None:
        return None
    cases = _nnunet_cases(folder)
    if not cases and case is None:
        for sub in ("imagesTr", "imagesTs"):
            if (folder / sub).is_dir() and _nnunet_cases(folder / sub):
                return _nnunet_layout(folder / sub, None)
    if not cases:
        return None
    if case is None:
        if len(cases) > 1:
            raise InputError(
                f"{folder} holds {len(cases)} cases ({_listed(sorted(cases))}), expected one; name "
                f"the case to read, for example {folder / min(cases)}."
            )
        (case,) = cases
    files = cases[case]
    missing = sorted(set(named) - set(files))
    extra = sorted(set(files) - set(named))
    if missing:
        i = missing[0]
        raise InputError(
            f"{folder / case} lacks channel {i} ({named[i]}) that dataset.json lists, expected a "
            f"file {case}_{i:04d}; add it or remove the channel from dataset.json."
        )
    if extra:
        raise InputError(
            f"{files[extra[0]]} is channel {extra[0]}, which dataset.json does not list; add its "
            "name to channel_names or remove the file."
        )
    channels = []
    for i in sorted(files):
        info = _probe_single(files[i])
        channels.append(ChannelFiles(title=f"{files[i].name} ({named[i]})", images=(info,),
                                     label=named[i], label_source="dataset.json"))  # fmt: skip
    used = {file.name for file in files.values()} | {"stack.yaml", "dataset.json"}
    ignored = [entry.name for entry in _entries(folder) if entry.name not in used]
    yaml_path = folder / (f"{case}.yaml" if len(cases) > 1 else "stack.yaml")
    return Layout(name=case, form="nnU-Net case", yaml_path=yaml_path,
                  channels=tuple(channels), ignored=tuple(ignored))  # fmt: skip


def _label(path: Path) -> tuple[str, str]:
    """What names a file's channel: the nnU-Net channel name if it has one, else its own name."""
    match = _NNUNET.fullmatch(_stem(path))
    named = _nnunet_channels(path.parent) if match and path.is_file() else None
    if match and named and int(match[2]) in named:
        return named[int(match[2])], "dataset.json"
    return _stem(path), "file name"


# --- one file, one folder of slices ----------------------------------------------------------


def _probe_single(path: Path) -> ImageInfo:
    return _single_channel(probe_image(path, 1))


def _probe_alone(path: Path, num_channels: int | None) -> ImageInfo:
    """A file that is the whole stack: one channel if its name is that of one."""
    if num_channels is None and kev_of_name(_stem(path)) is not None:
        num_channels = 1
    return probe_image(path, num_channels)


def _single_channel(info: ImageInfo) -> ImageInfo:
    if info.shape[0] > 1:
        raise InputError(
            f"{info.path} holds {info.shape[0]} channels, expected one beside other files; read it "
            "alone or save its channels one by one."
        )
    return info


def _file_channels(info: ImageInfo, *, file: str | None) -> list[ChannelFiles]:
    """Channels of one file: several if it is a hyperstack."""
    count, slices = info.shape[:2]
    if count == 1:
        label, source = _label(info.path)
        names = info.facts.channel_names
        if kev_of_name(label) is None and len(set(names)) == 1 and kev_of_name(names[0]):
            label, source = names[0], f"channel name in {info.path.name}"
        return [ChannelFiles(title=info.path.name, images=(info,), label=label,
                             label_source=source, file=file)]  # fmt: skip
    names = info.facts.channel_names
    # ImageJ keeps one label per plane, channels fastest; OME one name per channel.
    named = len(names) in (count, count * slices)
    return [
        ChannelFiles(
            title=f"channel {i + 1} of {info.path.name}"
            + (f" ({names[i]})" if named and names[i] else ""),
            images=(info,),
            index=i,
            label=names[i] if named else "",
            label_source=f"channel name in {info.path.name}",
        )
        for i in range(count)
    ]


def _slices_channel(
    infos: Sequence[ImageInfo], title: str, label: str, source: str, file: str | None
) -> ChannelFiles:
    """Single-slice images as one channel."""
    first = infos[0]
    for info in infos:
        if info.shape[1] > 1:
            raise InputError(
                f"{info.path} holds {counted(info.shape[1], 'slice')} beside other slices of "
                f"{title}; keep either one file per slice or one file per channel."
            )
        if info.shape != first.shape:
            raise InputError(
                f"{info.path} has {_size(info)} pixels, but {first.path.name} of the same channel "
                f"has {_size(first)}; crop the slices to one size or remove those that do not "
                "belong."
            )
    return ChannelFiles(title=title, images=tuple(infos), label=label, label_source=source,
                        file=file)  # fmt: skip


def _size(info: ImageInfo) -> str:
    return f"{info.shape[3]} x {info.shape[2]}"


def _folder_channel(folder: Path, file: str | None) -> ChannelFiles:
    """A sub-folder as one channel."""
    files = [f for f in _entries(folder) if is_image_file(f) and not is_label_name(_stem(f))]
    if not files:
        raise InputError(f"{folder} holds no image, expected the slices of one channel.")
    infos = [_probe_single(f) for f in files]
    source = "folder name"
    if len(infos) == 1:
        return ChannelFiles(title=folder.name, images=(infos[0],), label=folder.name,
                            label_source=source, file=file)  # fmt: skip
    return _slices_channel(infos, folder.name, folder.name, source, file)


# --- folders ---------------------------------------------------------------------------------


def _explicit_channels(
    folder: Path, files: Sequence[str], stated_in: str, num_channels: int | None
) -> list[ChannelFiles]:
    """The channels that ``stack.yaml`` or the command line lists."""
    if len(set(files)) == 1 and len(files) > 1:
        # All channels lie in one hyperstack.
        info = probe_image(_listed_path(folder, files[0], stated_in), len(files))
        if info.shape[0] != len(files):
            raise InputError(
                f"{stated_in} lists {files[0]} {len(files)} times but it holds "
                f"{counted(info.shape[0], 'channel')}; list each file once."
            )
        return _file_channels(info, file=None)
    doubled = sorted({file for file in files if files.count(file) > 1})
    if doubled:
        raise InputError(f"{stated_in} lists {doubled[0]} more than once; list each file once.")
    channels: list[ChannelFiles] = []
    for file in files:
        path = _listed_path(folder, file, stated_in)
        if path.is_dir():
            channels.append(_folder_channel(path, file))
            continue
        info = _probe_alone(path, num_channels) if len(files) == 1 else _probe_single(path)
        channels.extend(_file_channels(info, file=file))
    return channels


def _listed_path(folder: Path, file: str, stated_in: str) -> Path:
    path = folder / file
    if not path.exists():
        names = [entry.name for entry in _entries(folder)]
        raise InputError(
            f"{stated_in} lists the channel {file}, which is not in {folder}"
            f"{suggestion(file, names)}; add the file or correct the name."
        )
    return path


def _by_name(channel: ChannelFiles) -> tuple:
    kev = kev_of_name(channel.label)
    return (kev is None, kev or 0.0, detector_of_name(channel.label) == "BSE",
            natural_key(channel.title))  # fmt: skip


def _single_page_channels(infos: list[ImageInfo], folder: Path) -> list[ChannelFiles]:
    """Single-slice images: slices of one channel, or grouped by what names and headers state."""

    def key(info: ImageInfo) -> tuple:
        label = _stem(info.path)
        kev, detector = kev_of_name(label), detector_of_name(label)
        series = name_template(label) if kev is not None else ""
        facts = info.facts
        kev = kev if kev is not None else next((fact.value for fact in facts.beam_kev), None)
        detector = detector or next((fact.value for fact in facts.detector), None)
        return kev, detector, series

    groups: dict[tuple, list[ImageInfo]] = defaultdict(list)
    for info in infos:
        groups[key(info)].append(info)
    stated = [found for found in groups if found != (None, None, "")]
    if len(stated) <= 1:
        # Slices that lost their header on the way belong to those that kept it.
        label, source = folder.absolute().name, "folder name"
        if stated and stated[0][2]:
            label, source = _stem(groups[stated[0]][0].path), "file name"
        return [_slices_channel(infos, folder.absolute().name, label, source, None)]
    counts = {len(group) for group in groups.values()}
    if counts == {1}:
        return [channel for info in infos for channel in _file_channels(info, file=info.path.name)]
    if len(counts) > 1:
        largest = max(groups.values(), key=len)
        odd = min(groups.values(), key=len)
        raise InputError(
            f"{folder} holds {counted(len(largest), 'image')} like {largest[0].path.name} but "
            f"{len(odd)} like "
            f"{odd[0].path.name}, expected as many slices in every channel; put the slices of each "
            "channel into a sub-folder, or list the files under channels in stack.yaml."
        )
    return [
        _slices_channel(group, f"{group[0].path.name} to {group[-1].path.name}",
                        _stem(group[0].path), "file name", None)
        for group in groups.values()
    ]  # fmt: skip


def _folder_of_files(
    folder: Path, files: list[Path], num_channels: int | None
) -> tuple[list[ChannelFiles], str]:
    if len(files) == 1:
        channels = _file_channels(_probe_alone(files[0], num_channels), file=files[0].name)
        return channels, "folder with one file"
    infos = [_probe_single(file) for file in files]
    same_size = len({info.shape for info in infos}) == 1
    voltages = any(kev_of_name(_stem(file)) is not None for file in files)
    if all(info.shape[:2] == (1, 1) for info in infos) and (same_size or voltages):
        channels = _single_page_channels(infos, folder)
        slices = len(channels[0].images) > 1
        form = "folder of single slices" if slices else "folder with one image per channel"
        return sorted(channels, key=_by_name), form
    channels = [channel for info in infos for channel in _file_channels(info, file=info.path.name)]
    return sorted(channels, key=_by_name), "folder with one file per channel"


def _folder_layout(
    folder: Path, files: Sequence[str] | None, stated_in: str, num_channels: int | None
) -> Layout:
    name = folder.absolute().name
    yaml_path = folder / "stack.yaml"
    entries = _entries(folder)
    if files is not None:
        channels = _explicit_channels(folder, files, stated_in, num_channels)
        others = [e.name for e in entries if e.name not in {*files, "stack.yaml"}]
        return Layout(name=name, form="folder with listed channels", yaml_path=yaml_path,
                      channels=tuple(channels), ignored=tuple(others))  # fmt: skip
    nnunet = _nnunet_layout(folder, None)
    if nnunet is not None:
        return nnunet

    images = [e for e in entries if e.is_file() and is_image_file(e)]
    folders = [e for e in entries if e.is_dir() and any(is_image_file(f) for f in _entries(e))]
    used_images = [e for e in images if not is_label_name(_stem(e))]
    used_folders = [e for e in folders if not is_label_name(e.name)]
    voltage_images = [e for e in used_images if kev_of_name(_stem(e)) is not None]
    voltage_folders = [e for e in used_folders if kev_of_name(e.name) is not None]
    if voltage_images or (used_images and not voltage_folders):
        candidates, chosen = used_images, voltage_images or used_images
        channels, form = _folder_of_files(folder, chosen, num_channels)
    elif used_folders:
        candidates = used_images + used_folders
        chosen = voltage_folders or used_folders
        channels = sorted((_folder_channel(sub, sub.name) for sub in chosen), key=_by_name)
        form = "folder with one sub-folder per channel"
    else:
        seen = _listed(e.name for e in entries) or "nothing"
        raise InputError(
            f"{folder} holds no image of a channel (found: {seen}), expected TIFF, BMP or PNG "
            "files such as 1kV.tif or sub-folders of slices; give the folder of the images, or "
            "list them under channels in stack.yaml if their names look like labels."
        )
    left = [e.name for e in candidates if e not in chosen]
    warnings = []
    if left:
        warnings.append(
            f"Not read, because other names state a voltage and these do not: {_listed(left)}; "
            "list the channels in stack.yaml to change that."
        )
    used = {e.name for e in chosen} | {*left, "stack.yaml"}
    ignored = [e.name for e in entries if e.name not in used]
    return Layout(name=name, form=form, yaml_path=yaml_path,
                  channels=tuple(channels), ignored=tuple(ignored),
                  warnings=tuple(warnings))  # fmt: skip


def find_layout(
    path: Path, *, files: Sequence[str] | None, stated_in: str, num_channels: int | None
) -> Layout:
    """Understand a path as a stack.

    Args:
        path: a folder, an image file, or ``folder/NAME`` of an nnU-Net case.
        files: channel files that the user lists; they are taken in that order, and nothing else.
        stated_in: where they are listed, for messages.
        num_channels: number of channels the user states, to understand unnamed axes.

    Raises:
        InputError: path absent, no image, several cases, a channel that is absent, damaged files.
    """
    if path.is_dir():
        return _folder_layout(path, files, stated_in, num_channels)
    if not path.exists():
        if path.parent.is_dir() and path.name in _nnunet_cases(path.parent):
            layout = _nnunet_layout(path.parent, path.name)
            if layout is not None:
                return layout
        require_exists(path)
    if is_label_name(_stem(path)) and files is None:
        raise InputError(
            f"{path} is named like labels, not like an image of a channel; rename it, or list it "
            f"under channels in {path.with_suffix('.yaml').name} if it is one."
        )
    channels = _file_channels(_probe_alone(path, num_channels), file=path.name)
    return Layout(name=_stem(path), form="one file", yaml_path=path.with_suffix(".yaml"),
                  channels=tuple(channels))  # fmt: skip
