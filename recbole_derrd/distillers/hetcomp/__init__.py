r"""HetComp: one ranking of several teachers, easy snapshots of it first, its order last.

SeongKu Kang, Wonbin Kweon, Dongha Lee, Jianxun Lian, Xing Xie, Hwanjo Yu: "Distillation from Heterogeneous Models for
Top-K Recommendation", WWW 2023. A user u is taught two rankings: P_u, K unobserved items, the best of an ensemble of
the teachers' rankings (``rank_fusion.py``), and O_u, the teachers' best of the user's training items. The ensemble
takes each teacher at the snapshot that u has come to (``curriculum.py``), from early and easy ones to the last. With s
the student's logits, N_u the user's unobserved items and R_u = sum_{j in N_u \ P_u} e^{s_j}, phase 1 asks that both
rankings are above the rest, in whatever order:

    L_O = - sum_u sum_{i in O_u, P_u} log( e^{s_i} / (e^{s_i} + R_u) )

Once all users have come to the last snapshots, phase 2 asks for the order:

    L_F = sum_u LM(O_u, |O_u|, R_u(n_1)) + mean over n of { LM(P_u, n, R_u(n)) },    n = n_1, n_2 = K / 2, K / 10
    LM(pi, n, R) = - sum_{l=1..n} log( e^{s_{pi_l}} / (sum_{q=l..n} e^{s_{pi_q}} + R) )
    R_u(n) = sum over N_u without P_u's first n items of e^{s_j}

over the batch's distinct users. sum_{q=l..n} e^{s_{P_q}} + R_u(n) is the same for every n, so one pass over P_u does.

Paper and code: the paper's equations were not accessible; this follows descriptions of the authors' program, whose
weights are 0.01 L_O and 0.005 L_F (its first release: 1 and 1, with n = K alone). There the term is the whole loss;
here it is added to the student's own. The code finds R by subtraction and clamps it and the scores; here R is a sum of
what is in it. ``curriculum.py``, ``discrepancy.py`` and ``rank_fusion.py`` name the other differences.
"""

from recbole_derrd.distillers.hetcomp.losses import fine_order_loss, overall_relation_loss
from recbole_derrd.distillers.hetcomp.method import HeterogeneousDistillation
from recbole_derrd.distillers.hetcomp.options import HetCompOptions

__all__ = ["HetCompOptions", "HeterogeneousDistillation", "fine_order_loss", "overall_relation_loss"]
