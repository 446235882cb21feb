"""Words, names, numbers and identifiers, split by a hash into a training and a held-out part.

What only one part may use never occurs in the other, whatever is drawn from it.
"""

from __future__ import annotations

import keyword
import random
import zlib
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def _words(text: str) -> list[str]:
    return text.split()


# One of this many names, identifiers, numbers and sums is held out.
HELD_OUT_SHARE = 10

REAL_NAMES = _words(
    """
    Anna Ben Clara David Emma Felix Grace Henry Ida Jonas Karla Leo Maria Nina Oscar Paula Quentin
    Rosa Simon Tara Ulrich Vera Walter Xenia Yusuf Zoe Aiko Bruno Carlos Diana Elena Farid Gina
    Hugo Ines Jack Kenji Laura Marco Nadia Olga Peter Rita Sofia Tom Uma Victor Wendy Amira Boris
    Chloe Daniel Eva Frank Greta Hassan Isabel John Kate Liam Mia Noah Olivia Pablo Robert Sarah
    Thomas Alice Bob Carol Eve Lucy Martin Julia Lars Mila Nico Otto Pia Rafael Sven Tina Lena Max
    Paul Erik Ruth Smith Baker Miller Lopez Rossi Tanaka Novak Weber Silva Meyer Khan Brown Jones
    Green Carter Young London Paris Madrid Rome Berlin Dublin Osaka Prague Milan Vienna Oslo
    Lisbon Cairo Lima Boston Delhi Bern Hamburg Toronto Sydney Kyoto Athens Zurich Geneva
    """
)
OBJECTS = _words(
    """
    lamp book key map drum ring coin bell rope kite boat clock mirror basket ladder candle hammer
    letter box cup bottle chair table carpet flute violin hat scarf coat umbrella suitcase camera
    lantern shovel bucket teapot blanket pillow pencil notebook compass telescope bicycle wagon
    whistle puzzle painting bracelet button ticket spoon kettle radio guitar piano stone feather
    shell
    """
)
ANIMALS = _words(
    """
    fox owl bear mouse rabbit cat dog horse duck goose hedgehog badger otter beaver frog turtle
    squirrel deer wolf crow sparrow robin lizard goat sheep donkey hen pig mole bat snail bee
    penguin seal whale dolphin tiger lion elephant monkey parrot swan
    """
)
PLACES = _words(
    """
    forest harbour garden village market castle library mountain valley river lake island bridge
    mill tower farm school station bakery museum meadow cave desert beach park square kitchen
    attic cellar workshop theatre hospital lighthouse
    """
)
COLOURS = _words("red blue green yellow white black brown grey purple orange silver golden pink")
JOBS = _words(
    """
    baker teacher doctor nurse farmer sailor painter carpenter gardener cook pilot driver tailor
    lawyer engineer singer writer dancer librarian plumber fisherman potter clerk builder dentist
    judge miner musician photographer reporter
    """
)
FOODS = _words(
    """
    apples pears plums cherries grapes lemons oranges potatoes carrots onions tomatoes beans peas
    nuts eggs rolls cakes cookies pies olives mushrooms peppers figs berries
    """
)
ADJECTIVES = _words(
    """
    old small big quiet bright heavy warm cold strange broken shiny tiny tall round soft wooden
    lost beautiful simple clean dusty gentle brave clever tired happy sad curious
    """
)
MONTHS = _words(
    """
    January February March April May June July August September October November December
    """
)
DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")

# Parts of identifiers as programmers write them.
CODE_WORDS = _words(
    """
    total count price items result value index name user data list size width height sum max min
    start end first last next node tree key token text line word file path row column table cell
    page score rate limit offset buffer queue stack step speed time day year month date order
    amount balance account client server request response message event state config option flag
    mode level weight depth area angle point vector matrix image color pixel frame layer
    model batch cache store record field group member owner parent child left right top bottom
    source target input output number digit letter factor ratio mean average median error delta
    range bound find get set make build parse load save read write send check test add
    remove update merge split sort filter map reduce convert compute calculate apply format clean
    reset init open close copy move shift scale rotate draw render fetch query insert delete
    select join group_by sum_up
    """
)

# Words that syllables may form by chance and that mean something in programs.
_RESERVED = {*keyword.kwlist, "let", "const", "function", "console", "log", "len", "print"}

_ONSETS = _words(
    """
    b br c ch cl cr d dr f fl fr g gl gr h j k kl kr l m n p pl pr qu r s sh sk sl sm sn sp st str
    t th tr tw v w y z
    """
)
_VOWELS = _words("a a a e e e i i o o u ai au ea ee ei ia ie io oa oo ou y")
_CODAS = _words("_ _ _ _ b ck d f g l ll m n n nd ng nt p r r rd rn s ss st t t th x z")


def is_held_out(text: str) -> bool:
    """Whether a name, identifier, number or sum belongs to the held-out part; stable for ever."""
    return zlib.crc32(text.encode()) % HELD_OUT_SHARE == 0


class Draw:
    """Random choices for one example, from one of the two parts."""

    def __init__(self, seed: str, *, held_out: bool = False) -> None:
        self.random = random.Random(seed)
        self.held_out = held_out

    def one(self, choices: Sequence[T]) -> T:
        """One of the choices."""
        return self.random.choice(choices)

    def some(self, choices: Sequence[T], count: int) -> list[T]:
        """`count` different choices in random order."""
        return self.random.sample(choices, count)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.random.random() < probability

    def integer(self, low: int, high: int) -> int:
        """From low to high, both included, of either part."""
        return self.random.randint(low, high)

    def of_part(self, make: Callable[[], str]) -> str:
        """The first text of this part that `make` gives."""
        while is_held_out(text := make()) != self.held_out:
            pass
        return text

    def word(self) -> str:
        """An invented lower-case word of one to three syllables."""
        return self.of_part(self._syllables)

    def name(self) -> str:
        """A first name, family name or town, most of them invented."""
        if self.chance(0.35):
            return self.of_part(lambda: self.one(REAL_NAMES))
        return self.of_part(lambda: self._syllables(2).capitalize())

    def names(self, count: int) -> list[str]:
        """Different names."""
        chosen: dict[str, None] = {}
        while len(chosen) < count:
            chosen[self.name()] = None
        return list(chosen)

    def number(self, low: int = 100, high: int = 9999) -> str:
        """A number of this part in decimal digits."""
        return self.of_part(lambda: str(self.integer(low, high)))

    def identifier(self) -> str:
        """An identifier of this part, as programmers write them or random letters."""
        while (found := self.of_part(self._identifier)) in _RESERVED:
            pass
        return found

    def identifiers(self, count: int) -> list[str]:
        """Different identifiers, none of them a part of another at word borders."""
        chosen: dict[str, None] = {}
        while len(chosen) < count:
            chosen[self.identifier()] = None
        return list(chosen)

    def _syllables(self, fewest: int = 1) -> str:
        count = self.random.choice((fewest, 2, 2, 3))
        parts = [self.one(_ONSETS) + self.one(_VOWELS) for _ in range(count)]
        if self.chance(0.12):
            parts[0] = self.one("aeiou") + self.one(_CODAS).strip("_")
        return "".join(parts) + self.one(_CODAS).strip("_")

    def _identifier(self) -> str:
        kind = self.random.random()
        if kind < 0.35:
            return "_".join(self.some(CODE_WORDS, self.integer(1, 2)))
        if kind < 0.5:
            first, second = self.some(CODE_WORDS, 2)
            return first.replace("_", "") + second.replace("_", "").capitalize()
        if kind < 0.65:
            return self._syllables()
        if kind < 0.8:
            return f"{self.one((self._syllables(), self.one(CODE_WORDS)))}_{self._syllables()}"
        if kind < 0.87:
            return f"{self.one(CODE_WORDS)}{self.integer(1, 99)}"
        if kind < 0.94:
            letters = "abcdefghijklmnopqrstuvwxyz"
            return "".join(self.one(letters) for _ in range(self.integer(3, 6)))
        return "_".join(self.some(CODE_WORDS, 2)).upper()
