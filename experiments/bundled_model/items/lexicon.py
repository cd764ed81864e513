"""The words from which `grammar.py` makes its sentences: common in old prose and new."""


def _list(text: str) -> list[str]:
    return [" ".join(entry.split()) for entry in text.split(",")]


PEOPLE = _list(
    """boy boys, girl girls, farmer farmers, king kings, captain captains, soldier soldiers,
    woman women, doctor doctors, lady ladies, gentleman gentlemen, servant servants,
    child children, man men, sailor sailors, teacher teachers, priest priests, merchant
    merchants, lawyer lawyers, stranger strangers"""
)
THINGS = _list(
    """letter letters, book books, table tables, chair chairs, window windows, garden gardens,
    ship ships, house houses, picture pictures, box boxes, stone stones, tree trees,
    flower flowers, horse horses, coat coats, story stories, field fields, bottle
    bottles, road roads, key keys"""
)
MALE = _list(
    """king, boy, gentleman, prince, old man, father, uncle, husband, duke, monk, brother, son,
    nephew, grandfather"""
)
FEMALE = _list(
    """queen, girl, lady, princess, old woman, mother, aunt, wife, duchess, nun, sister, daughter,
    niece, grandmother"""
)
ADJECTIVES = _list("old, young, poor, tall, rich, clever, proud, tired, honest, unhappy")
PLACES = _list(
    "in the garden, at the door, near the river, in the street, on the bridge, by the fire"
)
TIMES = _list(
    "last night, this morning, before dinner, after the war, in the evening, long ago, on Sunday"
)
STATES = _list(
    "tired, ill, angry, happy, hungry, afraid, ready, alone, very old, quite safe, silent"
)
QUALITIES = _list("lost, sold, gone, found, here, old, very beautiful, quite new, in the room")
RELATIVE = _list("loved, hated, followed, saw, helped, feared, had seen, had met, had left")
REFLEXIVE = _list(
    """hurt, blamed, killed, dressed, defended, amused, ruined, threw, hid, excused, warmed, saved,
    deceived, washed"""
)
REFLEXIVE_END = {
    "threw": "into the river",
    "hid": "behind the door",
    "defended": "with a sword",
    "excused": "and went away",
}
# base, past, participle and what may follow
IRREGULAR = [
    entry.split("/")
    for entry in _list(
        """write/wrote/written/a long letter, take/took/taken/the money, see/saw/seen/the ship,
        give/gave/given/him a book, eat/ate/eaten/the bread, break/broke/broken/the
        window, speak/spoke/spoken/to the captain, go/went/gone/to the church,
        know/knew/known/the truth, forget/forgot/forgotten/the name,
        drink/drank/drunk/the wine, begin/began/begun/to laugh, choose/chose/chosen/a
        new king, steal/stole/stolen/a horse, drive/drove/driven/to the station,
        wear/wore/worn/a black dress, sing/sang/sung/an old song, hide/hid/hidden/the
        key, fall/fell/fallen/into the water, rise/rose/risen/from the chair"""
    )
]
TRANSITIVE = _list(
    "carried, brought, found, took, wanted, kept, destroyed, needed, touched, received, mentioned"
)
INTRANSITIVE = _list(
    "arrived, slept, laughed, died, smiled, wept, fainted, appeared, vanished, knelt"
)
VOWEL = _list(
    "old, ugly, empty, honest, English, ancient, angry, idle, elegant, excellent, iron, open"
)
CONSONANT = _list(
    "new, large, small, black, beautiful, broken, wooden, heavy, little, white, useful, long"
)
DEGREES = _list(
    """deep deeper, long longer, wide wider, old older, large larger, small smaller, high
    higher, strong stronger"""
)
KNOWING = _list("knew, asked, remembered, guessed, forgot, understood, told me, wondered")
FACTIVE = _list("knew, remembered, forgot, understood, told me, thought, said, believed")
GAPPED = _list("found, said, bought, brought, received, taken, destroyed, wanted, sent")
FOUND = _list("written, found, read, bought, lost, brought, seen, stolen, burnt, hidden")
ACTED = _list("thanked, followed, helped, called, met, watched, forgave, warned, loved, struck")
CASES = [("he", "him"), ("she", "her"), ("they", "them"), ("we", "us"), ("I", "me")]
