"""The words and codes by which DICOM files name a part of the body, or a view of it.

Words in English, Spanish, Portuguese, French, German and Italian, in capitals and without accents; codes of
SNOMED (SRT and SCT), from PS3.16 CID 4009, 4010 and 4031.
"""

import re
from collections.abc import Collection, Iterable

# A console's protocol sets the body part; it is often missing, and may be wrong. So only what holds no chest
# is refused; not the abdomen (a newborn's X-ray shows both), spine, ribs or shoulder. A verdict about a knee
# is worse than a mislabelled chest that has to be dropped again.
_CHEST = frozenset(
    (
        *("CHEST", "THORAX", "THORACIC", "THX", "LUNG", "PULMONARY", "THORACES", "HEART", "MEDIASTINUM"),
        *(
            "TORAX",
            "TORACICO",
            "PECHO",
            "PULMON",
            "PULMONES",
            "TORACICA",
            "PULMONAR",
            "PULMONARES",
        ),  # Spanish
        *("PEITO", "PULMAO", "PULMOES"),  # Portuguese
        *("THORACIQUE", "POITRINE", "POUMON", "PULMONAIRE"),  # French
        *("BRUST", "BRUSTKORB", "BRUSTRAUM", "LUNGE", "LUNGEN", "THORAXORGANE", "BRUSTORGANE"),  # German
        *("TORACE", "PETTO", "POLMONE", "POLMONI", "POLMONARE", "TORACI", "TORACICHE"),  # Italian
        *("T-D3000", "51185008", "816094009", "T-28000", "39607008", "T-280A0", "86598002"),
        *("R-FAB52", "417437006", "R-FAB53", "416152001", "R-FAB54", "416319003", "R-FAB55", "416550000"),
        *("R-FAB56", "416775004", "T-D0010", "38266002"),
    )
)
_ELSEWHERE: dict[str, str] = {
    "hand": (
        "HAND MANO MAO MAIN HAENDE METACARPUS METACARPAL CARPUS HANDE MANI MITTELHAND HANDWURZEL METACARPO"
        " METACARPE METACARPIANO CARPO CARPE PALM T-D8700 85562004"
    ),
    "finger": (
        "FINGER DEDO DOIGT DITO DITA DIGIT PHALANX PHALANGES DITI FALANGE FALANGI PHALANGE FNGR T-D8800"
        " 7569003"
    ),
    "thumb": "THUMB PULGAR POLEGAR POUCE DAUMEN POLLICE POLLICI T-D8810 76505004",
    "wrist": (
        "WRIST MUNECA PUNHO POIGNET HANDGELENK POLSO CARPAL SCAPHOID NAVICULAR POLSI HANDGELENKE SCAPHOIDE"
        " ESCAFOIDES KAHNBEIN WRST WRISTJOINT T-15460 74670003"
    ),
    "forearm": (
        "FOREARM ANTEBRAZO ANTEBRACO UNTERARM AVAMBRACCIO RADIUS ULNA CUBITO UNTERARME AVAMBRACCI"
        " AVAMBRACCIA AVANTBRAS FRARM LOWERARM LOWARM SPEICHE RADULN RADULNA T-D8500 14975008 T-12420"
        " 62413002 T-12430 23416004"
    ),
    "elbow": (
        "ELBOW CODO COTOVELO COUDE ELLBOGEN ELLENBOGEN GOMITO OLECRANON GOMITI ELLENBOGENGELENK"
        " ELLBOGENGELENK OLECRANE OLECRANO ELBOWJOINT T-15430 16953009 T-D8300 76248009"
    ),
    "upper arm": (
        "ARM UPPERARM HUMERUS HUMERO HUMERI BRAZO BRACO BRAS OBERARM BRACCIO UPARM UPRARM ARME OBERARME"
        " BRACCIA OMERO OMERI T-D8200 40983000 T-12410 85050009"
    ),
    "arm or leg": (
        "EXTREMITY EXTREMITIES EXTREMITIE EXTREMIT EXTREMIDAD EXTREMIDADES EXTREMIDADE EXTREMITE"
        " EXTREMITAET EXTREMITAT EXTREMITAETEN ESTREMITA ARTO ARTI EXT LIMB MIEMBRO MEMBRO MEMBRE GLIEDMASSE"
        " UPEXTREMITY LOWEXTREMITY EXM EXTR EXTREM LIMBS GLIEDMASSEN T-D0300 66019005 T-D8000"
        " 53120007 T-D9000 61685007 T-D0821 371195002 T-12700 72001000 T-13600 30608006 T-14668 102292000"
    ),
    "foot": (
        "FOOT FEET PIE PIES PES PIED FUSS FUESSE FUSSE PIEDE PIEDI METATARSUS METATARSAL TARSUS TARSAL"
        " FOREFOOT HINDFOOT FOREFEET MIDFOOT MITTELFUSS VORFUSS RUECKFUSS RUCKFUSS FUSSWURZEL METATARSO"
        " METATARSE METATARSIANO TARSO TARSE AVANTPIED AVAMPIEDE ANTEPIE ANTEPE T-D9700 56459004 T-12980"
        " 58742003 T-15770 27949001"
    ),
    "toe": "TOE ORTEIL ZEHE ZEHEN ALLUCE HALLUX ORTEJO ARTELHO GROSSZEHE ALLUCI T-D9800 29707007",
    "heel": (
        "HEEL CALCANEUS CALCANEUM OSCALCIS TALON CALCANEO TALLONE FERSE FERSENBEIN TALUS TALLONI CALCAGNO"
        " CALCAGNI CALCANHAR CALCANEI FERSEN ASTRAGALE ASTRAGALO ASTRAGALUS T-12770 80144004"
    ),
    "ankle": (
        "ANKLE TOBILLO TORNOZELO CHEVILLE SPRUNGGELENK KNOECHEL KNOCHEL CAVIGLIA MALLEOLUS CAVIGLIE"
        " FUSSGELENK FUSSGELENKE SPRUNGGELENKE OSG MALLEOLO MALLEOLI MALLEOLE ANKLEJOINT T-15750 70258002"
    ),
    "leg": (
        "LEG LOWERLEG TIBIA TIBIE FIBULA PERONE PIERNA PERNA JAMBE UNTERSCHENKEL BEIN GAMBA CALF SHIN TIB"
        " TIBFIB GAMBE BEINE SCHIENBEIN WADENBEIN UNTERSCHENKELKNOCHEN PERONI PERONEO FIBULE T-D9400"
        " 30021000 T-12740 12611008 T-12750 87342007"
    ),
    "knee": (
        "KNEE PATELLA RODILLA JOELHO GENOU GENOUX KNIE GINOCCHIO GINOCCHIA ROTULA ROTULE PATELA KNIEGELENK"
        " KNIEGELENKE KNIESCHEIBE PATELLE KNEEJOINT T-D9200 72696002 T-12730 64234005 T-15720 49076000"
    ),
    "thigh": (
        "THIGH FEMUR FEMORAL MUSLO COXA CUISSE OBERSCHENKEL COSCIA FEMORE COSCE FEMORI OBERSCHENKELKNOCHEN"
        " T-D9100 68367000 T-12710 71341001"
    ),
    "hip": (
        "HIP CADERA QUADRIL HANCHE HUEFTE HUFTE ANCA HUEFTEN HUFTEN HUEFTGELENK HUFTGELENK HUEFTGELENKE"
        " HUFTGELENKE ANCHE QUADRIS ACETABULUM HIPJOINT T-D2500 29836001 T-15710 24136001"
    ),
    "pelvis": (
        "PELVIS PELVIC CADRE BACIA BASSIN BECKEN BACINO PELVICA SACRUM SACRO COCCYX COCCIX ILIUM BACINI"
        " BACIAS BECKENUEBERSICHT BECKENUBERSICHT KREUZBEIN STEISSBEIN COCCIGE SACROILIAC SACROILIACA"
        " SACROILIAQUE SIJOINT ISG T-D6000 12921003 816092008 1231522001 T-12340 22356005 T-11AD0 54735007"
        " T-11BF0 64688005 T-15680 39723000"
    ),
    "head": (
        "SKULL HEAD CRANIUM CRANIAL CRANEO CRANIO CRANE SCHAEDEL SCHADEL CABEZA CABECA TETE KOPF TESTA"
        " BRAIN FACE FACIAL CARA VISAGE GESICHT FACCIA VOLTO NOSE NASAL NARIZ NEZ NASE NASO JAW MANDIBLE"
        " MANDIBULA MANDIBULE MANDIBOLA UNTERKIEFER OBERKIEFER KIEFER MAXILLA MAXILAR ORBIT ORBITA ORBITE"
        " SINUS SINUSES SENOS SEIOS PNS NNH TMJ ATM ZYGOMA MASTOID CAVUM ADENOIDS SELLA EYE CRANI NASENBEIN"
        " JOCHBEIN MANDIBOLE MASCELLA MASCELLE PARANASAL PARANASALES PARANASALI PARANASALSINUS"
        " NASENNEBENHOEHLEN NASENNEBENHOHLEN ORBITAE T-D1100 69536005 T-D1000 774007 T-11100 89546000"
        " T-D1200 89545001 T-11196 91397008 T-21000 45206002 T-11149 74386004 T-D1213 661005 T-11180"
        " 91609006 T-11170 70925003 T-D14AE 363654007 T-22000 2095001 T-15290 53620006 T-11166 13881006"
        " T-11133 59066005 T-D1460 42575006 T-AA000 81745001 T-D0801 371398005 T-A0100 12738006 T-11102"
        " 55024004 T-AB959 361078006 T-11011 110517009"
    ),
    "tooth": "TOOTH TEETH DENTAL DIENTE DIENTES DENTE DENT ZAHN ZAEHNE ZAHNE DENTI T-54010 38199008",
    "breast": "BREAST MAMA MAMMA MAMMARY SEIN MAMMELLA SENO MAMMELLE SEINS T-04000 76752008",
}
_PARTS = {word: part for part, words in _ELSEWHERE.items() for word in words.split()}

_SIDES = (
    *(
        "LEFT",
        "RIGHT",
        "UPPER",
        "LOWER",
        "BILATERAL",
        "BILAT",
        "BOTH",
        "LT",
        "RT",
        "UPPR",
        "UPR",
        "UPP",
        "UP",
    ),
    *("LOWR", "LWR", "LOW"),
)

# Views by their words or abbreviations, after PS3.3 C.8.7.1.1 and C.8.11.3, and as devices write them.
_NOT_FRONTAL = frozenset(
    (
        *("LL", "RL", "LLD", "RLD", "LLO", "RLO", "RAO", "LAO", "RPO", "LPO", "OBL", "OBLIQUE", "LD", "RD"),
        *("LAT", "LATERAL", "LATERALE", "LATERALES", "LATL", "LATERO", "LLAT", "RLAT", "LATR", "LATLEFT"),
        *("LATRIGHT", "ML", "LM", "MLO", "LMO", "XTL", "XTABLE", "CROSSTABLE", "TANGENTIAL", "AXIAL"),
        *("PROFILE", "PROFIL", "PERFIL", "PROFILO", "SEITLICH", "SEITE", "SEITENAUFNAHME", "SAGITTAL"),
        *("OBLICUA", "OBLICUO", "OBLIQUA", "OBLIQUO", "OBLIQUES", "SCHRAEG", "SCHRAG", "OBLIQ", "LATERALIS"),
        *("DECUB", "DECUBITUS", "DECUBITO", "LATDECUB", "DORSODECUBITUS", "LDECUB", "RDECUB"),
        *("SEITL", "SEITLICHE", "SEITLICHER", "SEITLAGE", "LATER", "LATERAIS", "LATERALI", "LATDEC", "XTLAT"),
        *(
            "XLAT",
            "XTLL",
            "XTBL",
            "TRANSLAT",
            "TRANSLATERAL",
            "TRANSLATERALE",
            "LATERODECUBITUS",
            "DEKUBITUS",
        ),
        *("LATERODECUBITO", "MEDIOLATERAL", "MEDIOLATERALE", "LATEROMEDIAL", "LATEROMEDIALE", "MEDLAT"),
        *("LATMED", "SCHRAEGE", "SCHRAGE", "SCHRAEGAUFNAHME", "SCHRAGAUFNAHME", "SCHRAEGPROJEKTION"),
        *("SCHRAGPROJEKTION", "OBLI", "OBLIC", "PROFILI", "PERFIS", "SAGITTALE", "SAGITAL"),
        *("AXIALE", "ASSIALE", "TANGENTIELL", "TANGENTIALE", "TANGENCIAL", "TANGENZIALE"),
        *("SEITENLAGE", "LINKSSEITENLAGE", "RECHTSSEITENLAGE"),
        *("R-10210", "399038007", "R-10250", "399225005", "R-10216", "399059000", "R-10241", "399061009"),
        *("G-A145", "30730003", "R-102C2", "399110001", "R-10230", "399099002"),
        *("R-10248", "399288005", "R-10220", "399135007", "R-40783", "260427002", "R-10234", "399236003"),
        *("R-10226", "399368009", "R-10232", "399198007", "R-10236", "399173006"),
        *("R-40985", "399356000", "R-10208", "399312000", "R-10228", "399352003", "R-10238", "399184004"),
        *("R-102C1", "399182000", "R-40782", "260426006", "R-10252", "399132005", "R-10254", "399325008"),
        *("R-10224", "399260004", "R-10204", "399160007", "R-10246", "399004004", "R-102CD", "399067008"),
        *("R-10212", "399006002", "G-A104", "49370004", "G-A472", "21114003", "G-A147", "24422004"),
        *("F-10317", "102535000", "F-10318", "32185000", "F-10319", "102536004"),
    )
)


def part_elsewhere(texts: Iterable[str]) -> str | None:
    """Return the part of the body that texts name, in our own words; None where it may be a chest."""
    words = [word for text in texts for word in _words(text)]
    if any(_known(word, _CHEST) for word in words):
        return None
    return next((_PARTS[known] for word in words if (known := _known(word, _PARTS))), None)


def is_not_frontal(texts: Iterable[str]) -> bool:
    """Return whether texts name a lateral, oblique or lying view."""
    return any(_known(word, _NOT_FRONTAL) for text in texts for word in _words(text))


def _words(text: str) -> list[str]:
    """Return the words of a text; a code is one word."""
    if re.fullmatch(r"[A-Z]\d?-[0-9A-F]+|\d{6,18}", text):
        return [text]
    return re.findall("[A-Z]+", text)


def _known(word: str, words: Collection[str]) -> str | None:
    """Return the known word that this one is or holds: without its plural's ending, beside a side's name, or
    beside another one.
    """
    found = next(
        (form for form in (word, word.removesuffix("S"), word.removesuffix("ES")) if form in words), ""
    )
    if found:
        return found
    for side in _SIDES:
        rest = word.removeprefix(side) if word.startswith(side) else word.removesuffix(side)
        if rest and rest != word and rest.removesuffix("S") in words:
            return rest.removesuffix("S")
    if word[:1] in ("L", "R") and word[1:] in words:
        return word[1:]
    halves = ((word[:end], word[end:]) for end in range(3, len(word) - 2))
    return next((first for first, second in halves if first in words and second in words), None)
