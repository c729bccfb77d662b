#!/bin/bash
# The same training with five seeds, each on a GPU of its own:
#   sbatch docs/jobs/array.sh --config clouds/fpn --data.root FOLDER --model.pretrained FILE
# Many settings instead of seeds are a study: `belvedere study ... --slurm` prints the job file.
#SBATCH --job-name=belvedere-seeds
#SBATCH --array=0-4
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --signal=USR1@300
#SBATCH --output=%x-%A_%a.out
#SBATCH --open-mode=append

export WANDB_MODE=offline
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" belvedere fit --config slurm "$@" \
  --trainer.num_nodes 1 --trainer.devices 1 --trainer.strategy auto \
  --seed_everything "$SLURM_ARRAY_TASK_ID" \
  --output "runs/$SLURM_JOB_NAME-$SLURM_ARRAY_JOB_ID/seed-$SLURM_ARRAY_TASK_ID" --resume auto
