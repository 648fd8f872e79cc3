"""Whether a text is in a language, by its script and by the small words of languages.

Texts are a few words long, which is too short for letter statistics: only words that are certain
count. A text without any is in no language that could be told, and not held against it.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterable

#: The small words by which languages are told; of one language in any order.
_SMALL = {
    "en": "the a an of to in on at with and or is are it its by for from this that be as more less "
    "than not no one instead into make change replace add remove show without but their his her "
    "should have them they there same other another under over behind next only all some "
    "i you he she we do does was were will would up down out off so if then when who which what "
    "very much many also too has had me my your our us him die",
    "de": "der die das den dem des ein eine einen einem einer eines und oder ist sind nicht mit "
    "ohne auf aus bei von vom zum zur zu im am ins durch für statt anstatt mehr als auch nur noch "
    "es er sie ihr wird werden soll sollte mach mache ersetze füge entferne ändere zeige hinzu "
    "unter über hinter neben einmal kein keine",
    "fr": "le la les un une des du de et ou est sont avec sans sur sous dans par pour plus moins "
    "que qui au aux en il elle ils elles ce cette ces son sa ses pas ne mais remplace remplacez "
    "ajoute ajoutez enlève retire change fais mets lieu derrière devant à d l",
    "es": "el la los las un una unos unas y o de del al en con sin sobre por para más menos que es "
    "son está están su sus se lo este esta pero como cambia reemplaza sustituye añade agrega quita "
    "haz pon muestra vez detrás debajo sea",
    "it": "il lo la i gli le un uno una e o di del della dei delle dello al alla nel nella con "
    "senza su sul sulla per più meno che è sono non ma questo questa come sostituisci aggiungi "
    "togli rimuovi cambia metti mostra invece dietro sotto da dal",
    "pt": "o a os as um uma uns umas e ou de do da dos das no na nos nas em com sem sobre por para "
    "mais menos que é são não seu sua mas como troque substitua adicione remova mude coloque "
    "mostre vez atrás pelo pela",
    "nl": "de het een en of van in op met zonder voor door uit bij naar meer minder dan is zijn "
    "niet geen maar ook deze dit die maak vervang verander voeg toe verwijder plaats achter onder "
    "naast te er moet",
    "sv": "en ett och eller är av på med utan för från till i den det de som inte mer mindre än "
    "byt ersätt ta bort lägg gör istället bakom under vid ska",
    "da": "en et og eller er af på med uden for fra til i den det de som ikke mere mindre end "
    "skift erstat fjern tilføj gør stedet bag under ved skal",
    "no": "en et ei og eller er av på med uten for fra til i den det de som ikke mer mindre enn "
    "bytt erstatt fjern legg gjør stedet bak under ved skal",
    "fi": "ja tai on ovat ei ilman kanssa sekä että se ne tämä enemmän vähemmän kuin vaihda korvaa "
    "lisää poista tee sijaan alla takana päällä",
    "pl": "i lub albo jest są w we na z ze do od dla bez nie się to ten ta te że jak więcej mniej "
    "niż zamień zmień dodaj usuń zrób pokaż zamiast pod za przy",
    "cs": "a nebo je jsou v ve na z ze do od pro bez ne se to ten ta že jak více méně než vyměň "
    "změň přidej odstraň udělej ukaž místo pod za při",
    "tr": "ve veya bir bu şu o ile için gibi daha az çok olsun değil yerine ekle çıkar değiştir "
    "yap kaldır göster altında arkasında üstünde",
    "id": "dan atau yang di ke dari dengan tanpa untuk pada ini itu adalah lebih kurang tidak atas "
    "ganti ubah tambahkan hapus buat jadikan tunjukkan bawah belakang seekor sebuah",
    "vi": "và hoặc là của với không trong trên dưới cho từ này đó một hơn ít thay đổi thêm bỏ xóa "
    "làm hãy bằng sau con chiếc",
    "ro": "și sau este sunt un o unei unui al ai ale de la în cu fără pe din pentru mai mult puțin "
    "decât nu înlocuiește adaugă elimină schimbă fă pune loc sub spre să",
}  # fmt: skip
#: Words that stand in English texts too: in names of places, dishes and clothes, or by their look.
_ANYWHERE = (
    "de la le el da di du des en no die den van of as is do me son per con non tee toe sur bag na "
    "plus mini mit pour main but sous fond bas ton dos uno que"
)
#: Of small words of other languages it takes two, as one may be a name or a slip.
_LEAST = 2
#: Scripts in which a language is written, as names of Unicode letters begin.
_SCRIPTS = {
    "ru": ("CYRILLIC",),
    "uk": ("CYRILLIC",),
    "bg": ("CYRILLIC",),
    "el": ("GREEK",),
    "zh": ("CJK", "BOPOMOFO"),
    "ja": ("CJK", "HIRAGANA", "KATAKANA"),
    "ko": ("HANGUL", "CJK"),
    "ar": ("ARABIC",),
    "fa": ("ARABIC",),
    "ur": ("ARABIC",),
    "he": ("HEBREW",),
    "hi": ("DEVANAGARI",),
    "mr": ("DEVANAGARI",),
    "bn": ("BENGALI",),
    "ta": ("TAMIL",),
    "te": ("TELUGU",),
    "th": ("THAI",),
    "ka": ("GEORGIAN",),
    "hy": ("ARMENIAN",),
}
LATIN = "LATIN"
_KNOWN = frozenset(one for scripts in _SCRIPTS.values() for one in scripts)
#: Languages that a text can be held against.
LANGUAGES = tuple(sorted((*_SMALL, *_SCRIPTS)))


def foreign(words: Iterable[str], language: str) -> float | None:
    """The share of the telling words that are not of ``language``: 0 to 1; None: none tells.

    words: in small letters, without punctuation. A small word of ``language`` tells, or a word in
    its script where that is not the Latin one; and so does a word in a script that is not its own,
    or two small words of other languages. Latin words beside another script may be names.
    """
    own = other = small = 0
    for word in words:
        scripts = frozenset(_script(letter) for letter in word if letter.isalpha())
        if not scripts <= {LATIN, *_SCRIPTS.get(language, ())}:
            other += 1
        elif word in _own(language) or scripts - {LATIN}:
            own += 1
        elif word in _others(language):
            small += 1
    other += small if small >= _LEAST else 0
    return other / (own + other) if own + other else None


@functools.lru_cache(maxsize=1 << 14)
def _script(letter: str) -> str:
    """The script that the Unicode name of a letter begins with; LATIN of signs without one."""
    name = unicodedata.name(letter, LATIN)
    script = name.split()[0].split("-")[0]
    return script if " LETTER" in name or script in _KNOWN else LATIN


@functools.cache
def _own(language: str) -> frozenset[str]:
    return frozenset(_SMALL.get(language, "").split())


@functools.cache
def _others(language: str) -> frozenset[str]:
    words = {word for name, said in _SMALL.items() if name != language for word in said.split()}
    return frozenset(one for one in words if len(one) > 1) - _own(language) - {*_ANYWHERE.split()}
