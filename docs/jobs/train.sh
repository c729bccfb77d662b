#!/bin/bash
# One training on any number of nodes and GPUs; what follows the file's name is for `belvedere fit`, the experiment first:
#   sbatch docs/jobs/train.sh --config clouds/fpn --data.root FOLDER --model.pretrained FILE
# Another shape is said once, to sbatch; this is one node of eight GPUs:
#   sbatch --nodes=1 --ntasks-per-node=8 --gres=gpu:8 docs/jobs/train.sh --config clouds/fpn ...
#SBATCH --job-name=belvedere       # not "bash" or "interactive": Lightning takes those for no job at all
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4        # a task a GPU; --ntasks is refused
#SBATCH --gres=gpu:4
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --signal=USR1@300          # five minutes before the end: longer than validation and a batch take
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append         # when the job is queued again

export WANDB_MODE=offline # compute nodes have no network; `wandb sync` afterwards from one that has
# srun does not take over by itself how many cores a task has
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" belvedere fit --config slurm "$@" \
  --trainer.num_nodes "$SLURM_NNODES" --trainer.devices "$SLURM_NTASKS_PER_NODE" \
  --output "runs/$SLURM_JOB_NAME-$SLURM_JOB_ID" --resume auto
