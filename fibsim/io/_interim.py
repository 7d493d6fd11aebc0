# ruff: noqa
import hashlib, os, re
from pathlib import Path
import numpy as np, tifffile, yaml
from fibsim.errors import InputError
from fibsim.stack import Channel, Stack
__all__=["read_stack","inspect_stack","read_volume","write_volume","write_stack","fingerprint","atomic_write_text"]
def read_stack(path,*,overrides=None):
    path=Path(path); o=dict(overrides or {})
    y=path/"stack.yaml" if path.is_dir() else path.with_suffix(".yaml")
    if y.exists(): o={**yaml.safe_load(y.read_text()),**o}
    if path.is_dir():
        fs=sorted((f for f in path.glob("*.tif") if re.match(r"[\d.]+kV",f.name)),key=lambda f: float(re.match(r"([\d.]+)kV",f.name)[1]))
        kev=[float(re.match(r"([\d.]+)kV",f.name)[1]) for f in fs]
        im=np.stack([tifffile.imread(f) for f in fs]); names=[f.stem for f in fs]
    else:
        if path.suffix==".bmp":
            from PIL import Image
            a=np.array(Image.open(path).convert("L"))
        else: a=tifffile.imread(path)
        im=a[None,None] if a.ndim==2 else a[None]; kev=o.get("beam_kev") or [c["beam_kev"] for c in o["channels"]]; names=[path.stem]
    return Stack(images=im,channels=tuple(Channel(beam_kev=k,name=n,detector="SE") for k,n in zip(kev,names)),pixel_nm=float(o.get("pixel_nm",4.)),slice_nm=float(o.get("slice_nm",10.)),tilt_deg=o.get("tilt_deg"),material=o.get("material"),specimen=o.get("specimen"),name=path.stem,provenance={"beam_kev":"file name"})
def inspect_stack(s): return f"{s.name} {s.images.shape} {[c.name for c in s.channels]} {s.voxel_nm}"
def read_volume(p): return np.atleast_3d(tifffile.imread(p)) if tifffile.imread(p).ndim==3 else tifffile.imread(p)[None]
def write_volume(p,v,*,voxel_nm):
    p=Path(p); t=p.with_name(p.name+".part.tif")
    tifffile.imwrite(t,v,imagej=True,resolution=(1/voxel_nm[2],1/voxel_nm[1]),metadata=dict(axes="ZYX",spacing=voxel_nm[0],unit="nm")); os.replace(t,p)
def write_stack(folder,images,channels,voxel_nm):
    Path(folder).mkdir(parents=True,exist_ok=True)
    for a,c in zip(images,channels): write_volume(Path(folder)/f"{c.name}.tif",a,voxel_nm=voxel_nm)
def fingerprint(s): return hashlib.sha256(np.ascontiguousarray(s.images).tobytes()+repr((s.images.shape,s.channels,s.voxel_nm,s.tilt_deg,s.material,s.specimen)).encode()).hexdigest()
def atomic_write_text(p,t):
    p=Path(p); q=p.with_name(p.name+".part"); q.write_text(t); os.replace(q,p)
