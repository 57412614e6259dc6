"""What may be the id of an image: it names files, and it stands in tables that people open in a spreadsheet."""

# Results are files named by the id, which file systems cut off at 255 bytes.
MAX_ID_BYTES = 200
# A cell that begins so is a formula to a spreadsheet; escaped, it would be another id.
FORMULA_STARTS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # those of full width, too


def find_id_fault(image_id: str) -> str | None:
    """Return what keeps a text from being the id of an image, None if nothing does.

    An id is 1 to MAX_ID_BYTES bytes of characters that can be shown, without a slash of either kind; it begins neither
    with a dot, as hidden files do, nor like a formula, nor like a drive of Windows.
    """
    if not image_id.strip():
        return "is empty"
    if not image_id.isprintable():
        return "has characters that cannot be shown"
    if "/" in image_id or "\\" in image_id:
        return "has a slash, as a path has"
    if image_id[1:2] == ":":
        return "begins like a drive of Windows"
    if image_id.startswith("."):
        return "begins with a dot, as hidden files do"
    if image_id.startswith(FORMULA_STARTS):
        return f"begins with {image_id[0]}, as a formula of a spreadsheet does"
    if (length_bytes := len(image_id.encode(errors="replace"))) > MAX_ID_BYTES:
        return f"has {length_bytes} bytes, more than {MAX_ID_BYTES}"
    return None
