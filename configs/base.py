"""What all recipes share: the authors' settings for DRSformer (CVPR 2023, section 4.1).

The other files of this folder change what their data set asks for. Any key can be set on the
command line: `python train.py --config configs/rain200h.py --workdir runs/x --config.seed=1`.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.name = "base"
    config.seed = 0  # of the initial parameters, the data order, crops, flips and mixup
    # Weights that a new run starts from instead of random ones, to fine-tune them: whatever
    # drsformer derain --weights takes. Without use when a run is carried on.
    config.init = ""

    # How long and with what.
    config.total_steps = 300_000  # training ends here; the schedule below is not stretched by it
    config.global_batch = 16  # over all devices: the authors' 4 GPUs with 4 patches each
    config.patch_size = 128  # pixels; a multiple of 8
    config.accumulation_steps = 1  # the batch in that many parts, gradients averaged
    config.ema_decay = 0.0  # of a moving average of the parameters; 0: none
    config.mixup = False  # blend the images of a random half of the batches, Beta(1.2, 1.2)
    # Progressive learning: ((steps, global_batch, patch_size), ...), instead of the two keys
    # above; the last stage goes on to the end.
    config.progressive = ()

    # How often, in steps; 0: never (the last step is always saved and evaluated).
    config.log_every = 100
    config.eval_every = 1_000
    config.checkpoint_every = 1_000
    config.keep_checkpoints = 3

    # The network. A preset of drsformer_jax.models.config, and what differs from it.
    config.model = ConfigDict()
    config.model.preset = "drsformer"
    config.model.dim = placeholder(int)
    config.model.num_blocks = placeholder(tuple)
    config.model.heads = placeholder(tuple)
    config.model.ffn_expansion_factor = placeholder(float)
    config.model.bias = placeholder(bool)
    config.model.layer_norm_type = placeholder(str)  # "WithBias" or "BiasFree"
    config.model.use_mefc = placeholder(bool)
    config.model.dtype = "float32"  # or "bfloat16" (parameters stay float32)
    config.model.precision = "default"  # of matrix products: "default", "high" or "highest"
    config.model.unroll = False  # write the blocks of a level out: slow to compile
    config.model.remat = placeholder(bool)  # recompute blocks backwards; None: do
    config.model.kernels = (
        "auto"  # on TPU; "auto": those that agree with the other form, "on", "off"
    )

    # Devices along each axis of the mesh; -1: all that are left. A run may go on with other ones.
    config.mesh = ConfigDict()
    config.mesh.data = -1  # whole copies of the network, each with its images of the batch
    config.mesh.fsdp = 1  # as data, but parameters and optimiser state are split over them
    config.mesh.spatial = 1  # bands of rows that each image is cut into

    # AdamW: the learning rate is held, then falls along half a cosine.
    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"  # or "muon": its matrices by Muon, all else by AdamW
    config.optimizer.learning_rate = 3e-4
    config.optimizer.final_learning_rate = 1e-6
    config.optimizer.warmup_steps = 0  # linear, from zero
    config.optimizer.hold_steps = 92_000
    config.optimizer.decay_steps = 208_000
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.999
    config.optimizer.eps = 1e-8
    config.optimizer.weight_decay = 1e-4  # of every parameter
    config.optimizer.clip_norm = 0.01  # of the gradient, over all parameters; 0: no clipping

    # Image pairs, as folders with input/ and target/.
    config.data = ConfigDict()
    # Or "records": ArrayRecord files that drsformer data build made; "synthetic": rain rendered
    # over clean photographs; or "mixed": layers of real rain over them (configs/compact.py).
    config.data.kind = "folder"
    # Folder; for "synthetic" also "embedded"; for "mixed" one or several of clean photographs.
    config.data.train = "data/train"
    config.data.val = "data/test"
    config.data.rain_level = "mixed"  # of synthetic rain: light, medium, heavy or mixed
    config.data.rain_versions = 64  # different rains a training photograph gets
    # Patches are drawn in one of eight flips and rotations, as the authors do; with "mirror" left
    # and right alone, so that rain falls in training as it does in photographs.
    config.data.augment = "dihedral"
    config.data.cache = True  # keep decoded images in memory, up to 2 GiB
    config.data.threads = 8  # that decode, crop and augment ahead of the training loop

    config.eval = ConfigDict()
    config.eval.protocol = "rain200"  # of eval.py: rain200, did_ddn or basicsr
    config.eval.data_set = ""  # which one data.val is, for the paper's score beside ours: rain200l,
    # rain200h, did, ddn, spa, rain100l, rain100h or rain800
    config.eval.batch_size = 1  # of eval.py, images of one size at a time on a device
    return config
