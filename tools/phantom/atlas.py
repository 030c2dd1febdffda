"""Mean courses and calibres of the head's arteries and veins, and where aneurysms grow.

Head frame: x to the patient's left, y backwards, z up (DICOM's LPS); origin in the midline at the
level of the anterior clinoid processes. Tables for tools/phantom/anatomy.py.

Courses and calibres: Rhoton, The supratentorial arteries (Neurosurgery 2002;51(4 Suppl):53-120)
and The cerebellar arteries (2000;47(3 Suppl):29-68). Segments of the carotid: Bouthillier et al.
(Neurosurgery 1996;38:425-432). Lengths and calibres of the circle: Kamath (J Anat
1981;133:419-423). Basilar calibre: Smoker et al. (AJNR 1986;7:55-60). All numbers are rounded:
a likeness, not a model for measurement.
"""

# Arteries of the left side: radius at the start and the end (mm), control points (mm).
# The right side is their mirror image.
CLINOID, POSTERIOR_COMMUNICATING, TERMINUS = (10.5, -15, -0.5), (12, -7.5, 4.5), (13, -5, 9)
A1_A2, M1_M2, P1_P2, BASILAR_TIP = (2.8, -15.5, 11), (33, -7, 10), (10, 5.5, 7), (0, 8, 7)
# fmt: off
SIDE_ARTERIES = {
    "ICA": (2.15, 1.75, [(25, 16, -50), (24.5, 12, -37), (23, 8, -29), (17, 4, -24),
        (12.5, 1.5, -20), (11.5, 3, -14), (11, 0, -9.5), (10.5, -7, -9), (10.5, -14, -8),
        (10.5, -17, -4), CLINOID, (11, -11.5, 2), POSTERIOR_COMMUNICATING, TERMINUS]),
    "M1": (1.5, 1.35, [TERMINUS, (18, -6.5, 10), (25, -7.5, 9.5), M1_M2]),
    "M2 superior": (1.1, 0.8, [M1_M2, (37, -6, 14), (40, -2, 21), (42, 5, 28), (43, 14, 33),
        (46, 24, 40)]),
    "M2 inferior": (1.1, 0.8, [M1_M2, (38, -3, 9.5), (42, 5, 12), (45, 15, 17), (46, 26, 22),
        (50, 38, 26)]),
    "anterior temporal": (0.65, 0.5, [(25, -7.5, 9.5), (29, -13, 6), (34, -17, 2), (42, -18, -3)]),
    "A1": (1.15, 1.05, [TERMINUS, (8, -10, 10.5), A1_A2]),
    "A2": (1.1, 0.85, [A1_A2, (3, -20, 13), (3, -27, 19), (3.2, -31.5, 25), (2.6, -31, 32),
        (2.4, -24, 40), (2.4, -10, 46)]),
    "callosomarginal": (0.7, 0.5, [(3.2, -31.5, 25), (4, -37, 30), (4, -40, 39), (4, -38, 52)]),
    "PCom": (0.65, 0.6, [POSTERIOR_COMMUNICATING, (12, -1, 5), P1_P2]),
    "anterior choroidal": (0.45, 0.4, [(12.6, -6, 7), (15, 2, 7), (19, 10, 11)]),
    "ophthalmic": (0.65, 0.5, [(10.7, -13.5, 0.5), (13, -20, 0), (18, -28, -4), (22, -40, -5)]),
    "P1": (1.1, 1.05, [BASILAR_TIP, (5, 7, 7.2), P1_P2]),
    "P2": (1.05, 0.75, [P1_P2, (16.5, 10, 8.5), (19.5, 17, 10), (18, 27, 12), (12, 37, 13),
        (10, 50, 12)]),
    "superior cerebellar": (0.7, 0.5, [(0, 8.5, 4), (8, 9, 2.5), (16.5, 14, 3), (18.5, 23, 5),
        (13, 33, 8)]),
    "AICA": (0.6, 0.45, [(0, 11.7, -11), (8, 13, -13), (18, 16, -15), (26, 21, -16)]),
    "VA": (1.4, 1.3, [(15, 34, -50), (13, 30, -38), (9, 24, -28.5), (4.5, 19.5, -24),
        (0, 17, -20)]),
    "PICA": (0.7, 0.5, [(9, 24, -28.5), (13, 29, -27), (15, 36, -30), (10, 43, -26)]),
}
MIDLINE_ARTERIES = {
    "ACom": (0.8, 0.8, [A1_A2, (0, -16, 11), (-2.8, -15.5, 11)]),
    "BA": (1.5, 1.4, [(0, 17, -20), (0, 12.5, -11), (0, 9.7, -3), (0, 8.5, 4), BASILAR_TIP]),
}
SIDE_VEINS = {
    "sigmoid": (3.5, 3.5, [(29, 18, -55), (31, 20, -40), (40, 32, -33), (52, 46, -20), (56, 60, -2),
        (38, 84, 4), (0, 96, 8)]),
    "basal": (0.8, 1.0, [(14, 0, 3), (21, 9, 10), (21, 22, 16), (3, 33, 23)]),
    "internal cerebral": (0.8, 1.0, [(2, 2, 27), (2, 20, 29), (0, 35, 24)]),
    "sylvian": (0.9, 1.1, [(52, 4, 24), (45, -12, 14), (36, -18, 5), (24, -19, -1), (14, -9, -9)]),
}
MIDLINE_VEINS = {
    "straight": (1.6, 2.2, [(0, 35, 24), (0, 55, 21), (0, 78, 13), (0, 96, 8)]),
    "superior sagittal": (3.0, 3.5, [(0, -72, 40), (0, -50, 78), (0, 10, 98), (0, 70, 80),
        (0, 96, 40), (0, 96, 8)]),
}
# fmt: on

# Where aneurysms grow on the left side: label, artery, control point, outward direction, and
# weight within the label.
SIDE_SITES = (
    (0, "ICA", 7, (1, 0.1, -0.1), 3),
    (0, "ICA", 8, (1, 0, 0.1), 3),
    (0, "ICA", 6, (0.8, 0.7, 0.1), 2),
    (0, "ICA", 9, (1, -0.3, 0.3), 1),
    (2, "ICA", 11, (-0.4, -0.3, 1), 3),
    (2, "ICA", 11, (-1, 0.1, 0.3), 2),
    (2, "ICA", 13, (0.1, -0.1, 1), 3),
    (4, "M1", 3, (1, -0.3, 0), 3),
    (4, "M1", 3, (0.7, -0.6, -0.5), 3),
    (4, "M1", 3, (0.8, 0, 0.7), 2),
    (4, "M1", 2, (0, -0.4, 1), 1),
    (7, "A2", 3, (0.7, -0.8, 0.1), 3),
    (7, "A2", 2, (0.9, -0.5, -0.2), 1),
    (7, "A1", 1, (0.3, -0.5, 0.8), 2),
    (9, "PCom", 0, (0.6, 0.9, -0.3), 3),
    (9, "PCom", 0, (0.9, 0.5, -0.5), 2),
    (12, "VA", 2, (0.7, -0.2, 0.7), 3),
    (12, "superior cerebellar", 0, (1, -0.3, -0.2), 1),
    (12, "P2", 1, (1, 0.1, 0.2), 2),
    (12, "AICA", 0, (0.8, -0.5, 0.1), 1),
)
MIDLINE_SITES = (
    (6, "ACom", 1, (0, -1, -0.2), 3),
    (6, "ACom", 0, (0.2, -0.7, 0.7), 1),
    (6, "ACom", 2, (-0.2, -0.7, 0.7), 1),
    (6, "ACom", 1, (0, -0.3, -1), 2),
    (11, "BA", 4, (0, -0.2, 1), 3),
    (12, "BA", 0, (0, -1, 0.3), 1),
)
# Larger artery from which a branch leaves at its control point 0.
HOSTS = {"PCom": "{side} ICA", "superior cerebellar": "BA", "AICA": "BA"}
