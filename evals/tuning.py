"""What fine-tuning has come to, iteration by iteration: models, examples, losses."""

from __future__ import annotations

from dataclasses import dataclass

from evals.arm_kinds import MULTIAGENT
from store.ledger import Store
from store.records import AgentRole

# A job that reuses another job's model (shared_job_id) has the losses of that job.
_TUNED = """
    with losses as (
        select job_id, arg_min(loss, step) as first, arg_max(loss, step) as last
        from training_points group by job_id
    ),

    newest as (
        select *, row_number() over (
            partition by iteration, agent, role order by created_at desc, job_id desc) as age
        from jobs where arm = $arm
    )

    select j.iteration, j.role, count(*), count_if(status = 'succeeded'), avg(d.examples),
           avg(first) filter (status = 'succeeded'), avg(last) filter (status = 'succeeded')
    from newest j
    join datasets d using (dataset_id)
    left join losses l on l.job_id = coalesce(j.shared_job_id, j.job_id)
    where age = 1
    group by j.iteration, j.role
    order by j.iteration, j.role desc
"""


@dataclass(frozen=True, slots=True)
class RoleTuning:
    """The models of one role in one iteration: `models` were to be tuned, `done` of them are.

    `examples` is the mean over the models; `first_loss` and `last_loss` are means over the jobs, of
    their first and last optimizer step, in nats per trained token; None where the provider
    reports none.
    """

    iteration: int
    role: AgentRole
    models: int
    done: int
    examples: float
    first_loss: float | None
    last_loss: float | None


def summarize_tuning(store: Store, arm: str = MULTIAGENT) -> list[RoleTuning]:
    """By iteration, generators before critics; of several attempts at one model the last counts."""
    # `newest` numbers the attempts at each model, the latest first; a failed one before it is left
    # out.
    return [RoleTuning(*row) for row in store.rows(_TUNED, {"arm": arm})]
