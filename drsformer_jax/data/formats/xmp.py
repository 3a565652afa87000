"""XMP, the metadata of photographs in XML, made true of the upright picture."""

from __future__ import annotations

from xml.dom import minidom

_NS_TIFF, _NS_EXIF = "http://ns.adobe.com/tiff/1.0/", "http://ns.adobe.com/exif/1.0/"
# What these tell of is not carried over: gain maps, films and depth behind a phone's picture, and
# the part of XMP that has no room in JPEG's first block.
_OF_OTHER_PARTS = (
    *(f"http://ns.google.com/photos/1.0/{part}/" for part in ("camera", "container", "image")),
    *("http://ns.google.com/photos/1.0/depthmap/", "http://ns.google.com/photos/1.0/audio/"),
    *("http://ns.adobe.com/hdr-gain-map/", "http://ns.adobe.com/xmp/note/"),
)


def fitted_xmp(xmp: bytes, height: int, width: int, location: bool) -> bytes:
    """An XMP packet whose orientation is 1 and whose sizes are those of the image.

    What tells of other parts of the file is left out, and the place if not `location`.

    Raises:
      ExpatError: it is no XML.
      ValueError: it defines entities, which no packet does that is not meant to do harm.
    """
    if b"<!DOCTYPE" in xmp:
        raise ValueError("XMP that defines entities")
    true = {
        (_NS_TIFF, "Orientation"): "1",
        (_NS_TIFF, "ImageWidth"): str(width),
        (_NS_TIFF, "ImageLength"): str(height),
        (_NS_EXIF, "PixelXDimension"): str(width),
        (_NS_EXIF, "PixelYDimension"): str(height),
    }

    def name_of(node: minidom.Attr | minidom.Element) -> tuple[str, str]:
        # By the usual prefixes, too: so programs look for them that do not parse.
        space = {"tiff": _NS_TIFF, "exif": _NS_EXIF}.get(node.prefix or "", node.namespaceURI)
        return space or "", node.localName

    def goes(node: minidom.Attr | minidom.Element) -> bool:
        space, name = name_of(node)
        is_place = space == _NS_EXIF and name.startswith("GPS")
        return space.startswith(_OF_OTHER_PARTS) or (is_place and not location)

    document = minidom.parseString(xmp.strip(b"\0 "))
    for element in document.getElementsByTagName("*"):
        for attribute in list(element.attributes.values()):
            if goes(attribute):
                element.removeAttributeNode(attribute)
            elif told := true.get(name_of(attribute)):
                attribute.value = told
        if goes(element):
            assert element.parentNode is not None  # the document, at least
            element.parentNode.removeChild(element)
        elif told := true.get(name_of(element)):
            for child in list(element.childNodes):
                element.removeChild(child)
            element.appendChild(document.createTextNode(told))
    # Node by node: the whole document would begin with a declaration, which a packet has none of.
    return "".join(node.toxml() for node in document.childNodes).encode()
